"""The routes of the service by subject: each module makes a router of what can be asked.

The default of a route's ``token`` is the role that it needs; see ``access``.  FastAPI reads the
annotations of the functions when the routers are made, so these modules do not postpone them.
"""
