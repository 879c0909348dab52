"""The service itself: whether it answers, its figures, whose a token is, what scores mean."""

import dataclasses
from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client import generate_latest

import crosscam
from crosscam.serve.access import Access
from crosscam.serve.tokens import Token

__all__ = ["make_router"]


def make_router(access: Access) -> APIRouter:
    """What is asked of the service itself."""
    router, viewer = APIRouter(tags=["service"]), access.viewer
    service, settings = access.service, access.service.settings

    @router.get("/health")
    def health() -> dict[str, Any]:
        """Whether the service answers."""
        return {"status": "ok", "version": crosscam.__version__}

    @router.get("/metrics", response_class=PlainTextResponse)
    def metrics(_: Token = viewer) -> PlainTextResponse:
        """Figures for Prometheus."""
        return PlainTextResponse(
            generate_latest(service.metrics), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @router.get("/api/me")
    def me(token: Token = viewer) -> dict[str, Any]:
        """Whose token this is, and what the service asks for."""
        return {
            "name": token.name,
            "role": token.role.name.lower(),
            "require_reason": settings.require_reason,
            "calibrated": service.calibration is not None,
            "retention_days": settings.retention_days,
        }

    @router.get("/api/calibration")
    def calibration(_: Token = viewer) -> dict[str, Any]:
        """What is known of the meaning of scores."""
        it = service.calibration
        if it is None:
            return {"calibrated": False}
        return {
            "calibrated": True,
            "data": it.data,
            "people": it.people,
            "far": settings.far,
            "measured": it.measured,
            "drift": None if service.drift is None else dataclasses.asdict(service.drift),
        }

    return router
