"""Who may ask for what: tokens and their roles, rates, turns, and what a request may carry.

FastAPI reads the annotations of ``check`` when an application is made, so this module does not
postpone them.
"""

import contextlib
import inspect
import math
import threading
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from crosscam.serve.service import Service
from crosscam.serve.tokens import Role, Token

__all__ = ["FORM", "Access", "turn"]

_PICTURE_COST = 0.05  # of a request: a page of results has dozens of pictures
_WAIT = 5.0  # seconds that a search waits for its turn before it is turned away

_SCHEME = HTTPBearer(auto_error=False, description="A token made with `crosscam token add`.")


class Access:
    """What routes ask of a service before they answer.

    Its ``viewer``, ``operator`` and ``admin`` are dependencies: a route gets the token of who asks,
    or is not called.  ``thumbnails`` is a viewer's that hardly counts.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.viewer, self.operator, self.admin = (self._needs(role) for role in Role)
        self.thumbnails = self._needs(Role.VIEWER, _PICTURE_COST)

    def _needs(self, role: Role, cost: float = 1.0) -> Any:
        service = self.service

        def check(
            request: Request,
            credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_SCHEME)],
        ) -> Token:
            token = service.tokens.find(credentials.credentials) if credentials else None
            if token is None:
                raise HTTPException(
                    401, "a valid bearer token is needed.", {"www-authenticate": "Bearer"}
                )
            wait = service.limit.take(token.sha256, cost)
            if wait:
                raise HTTPException(
                    429, "too many requests; wait a little.", {"retry-after": str(math.ceil(wait))}
                )
            if token.role < role:
                service.note(token, "refused", asked=request.scope["route"].name)
                raise HTTPException(
                    403,
                    f"this needs the role {role.name.lower()}, and the token has "
                    f"{token.role.name.lower()}.",
                )
            _only_known_parameters(request)
            return token

        return Depends(check)

    def reasoned(self, reason: str) -> None:
        """Refuses an empty reason where the service asks for one."""
        if self.service.settings.require_reason and not reason.strip():
            raise HTTPException(422, "this service asks for a reason.")

    def called(self, name: str) -> str:
        """A name as the gallery writes it, for whom it has and whom it has not.

        The log would else call somebody differently whose name came with a space more.
        """
        return self.service.gallery.people.spelled(name)

    def who(self, names: Iterable[str]) -> list[str]:
        """People as the log calls them."""
        return [self.service.pseudonym(name) for name in names]

    def change(
        self, token: Token, action: str, **details: Any
    ) -> contextlib.AbstractContextManager[dict[str, Any]]:
        """``Service.changing`` by who has the token."""
        return self.service.changing(token.name, token.role.name.lower(), action, **details)


@contextlib.contextmanager
def turn(of: threading.Semaphore) -> Iterator[None]:
    """Holds one of the turns that there are at a time; 503 where none gets free."""
    if not of.acquire(timeout=_WAIT):
        raise HTTPException(503, "too many requests at once; try again.", {"retry-after": "2"})
    try:
        yield
    finally:
        of.release()


def _only_known_parameters(request: Request) -> None:
    """Refuses parameters in the address that the route does not have, as a form's fields."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    _require_known("query parameters", request.query_params, known)


async def _only_known_fields(request: Request) -> None:
    """Refuses a form with fields that the route does not have: a typo must not widen a search.

    The form was read before, and is kept with the request.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise HTTPException(422, "send the fields as a form (multipart/form-data).")
    own = inspect.signature(request.scope["route"].endpoint).parameters
    known = [name for name in own if name not in ("token", "_")]
    _require_known("form fields", await request.form(), known)


FORM = Depends(_only_known_fields)
"""What a route whose fields are a form depends on, as its parameter ``_`` behind ``token``."""


def _require_known(what: str, given: Iterable[str], known: list[str]) -> None:
    strange = [name for name in dict.fromkeys(given) if name not in known]
    if strange:
        # Enough of a name to find it by, and nothing that a log or a terminal would obey.
        shown = ", ".join(ascii(name[:40]) for name in strange[:5])
        there = f"Known are {', '.join(known)}." if known else "There are none here."
        raise HTTPException(422, f"unknown {what}: {shown}. {there}")
