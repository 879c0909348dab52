"""The service: a gallery behind HTTP, with roles, an audit log and a page."""
