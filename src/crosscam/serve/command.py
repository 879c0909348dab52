"""The commands ``crosscam serve`` and ``crosscam token``."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import ipaddress
import os
import socket
import ssl
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscam.errors import CheckpointError, InputError, MissingExtraError
from crosscam.models import resolve
from crosscam.serve.settings import ServiceSettings
from crosscam.serve.tokens import Role, Tokens
from crosscam.wording import counted, either

if TYPE_CHECKING:
    from crosscam.decision import Calibration
    from crosscam.gallery import Gallery

__all__ = ["add_serve", "add_token", "serve", "token"]

_HELP = {
    "retention_days": "sightings older than this, or kept for longer, are deleted for good, "
    "hourly; 0 keeps them",
    "compact_hours": "so often what was deleted is erased from the files too, and what is new is "
    "indexed; 0: never",
    "audit_days": "older lines of the audit log are removed; 0 keeps them",
    "require_reason": "refuse searches and deletions without a reason",
    "per_minute": "requests per token and minute",
    "burst": "requests that may come at once",
    "max_upload_bytes": "bytes of one request",
    "max_pictures": "pictures of one search",
    "max_pixels": "pixels of one picture",
    "body_seconds": "time a client has to send a request",
    "searches": "searches at a time",
    "far": "false-accept rate that decisions promise",
    "present": "share of searches whose person is in the gallery",
}


def add_serve(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``crosscam serve``."""
    parser.add_argument("--gallery", required=True, metavar="PLACE", help="folder, or server URL")
    parser.add_argument("--new", action="store_true", help="make an empty gallery where there is "
                        "none, to be filled through the service")  # fmt: skip
    parser.add_argument("--pictures", type=Path, metavar="FOLDER",
                        help="where a server's gallery keeps its pictures")  # fmt: skip
    parser.add_argument("--model", required=True, help="encoder or run folder")
    parser.add_argument("--precision", choices=("float32", "native"), default="float32",
                        help="native: an fp16 encoder in the processor's 16 bits, quicker and a "
                        "little off")  # fmt: skip
    parser.add_argument("--calibration", type=Path, metavar="FILE",
                        help="what scores mean (default: the model's own)")  # fmt: skip
    parser.add_argument("--state", type=Path, help="folder of tokens and audit log "
                        "(default: GALLERY.service)")  # fmt: skip
    parser.add_argument("--may-delete", type=int, default=0, metavar="N", help="agree that up to N "
                        "sightings that are too old for --retention-days go: a start that is "
                        "refused names the number")  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tls-cert", type=Path, help="certificate, PEM")
    parser.add_argument("--tls-key", type=Path, help="its key, PEM")
    proxy = "listen beyond loopback without TLS, because a proxy in front has it"
    parser.add_argument("--behind-proxy", action="store_true", help=proxy)
    for setting in fields(ServiceSettings):
        flag = f"--{setting.name.replace('_', '-')}"
        if setting.name == "require_reason":
            parser.add_argument(flag, action="store_true", help=_HELP[setting.name])
        else:
            kind = type(setting.default)
            parser.add_argument(
                flag, type=kind, default=setting.default, help=_HELP[setting.name], metavar="N"
            )


def add_token(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``crosscam token``."""
    verbs = parser.add_subparsers(title="verbs", dest="verb", required=True)
    add = verbs.add_parser("add", help="Make a token; it is shown once.")
    add.add_argument("name", help="whose it is; stands in the audit log")
    add.add_argument("--role", required=True, help="viewer, operator or admin")
    add.add_argument("--days", type=float, help="days until it ends (default: never)")
    revoke = verbs.add_parser("revoke", help="End a token.")
    revoke.add_argument("name")
    show = verbs.add_parser(
        "list", help="Names, roles and when they end; never the tokens themselves."
    )
    for verb in (add, revoke, show):
        place = verb.add_mutually_exclusive_group(required=True)
        place.add_argument("--gallery", metavar="PLACE", help="the gallery that is served")
        place.add_argument("--state", type=Path, help="folder of tokens and audit log")


def token(options: argparse.Namespace) -> int:
    """``crosscam token``."""
    tokens = Tokens(_state(options) / "tokens.json")
    if options.verb == "add":
        print(tokens.add(options.name, Role.named(options.role), days=options.days))
        lacking = _lacking(options.gallery) if options.gallery else ""
        if lacking:
            print(f"note: {lacking} The token is for a gallery that is made there later.",
                  file=sys.stderr)  # fmt: skip
    elif options.verb == "revoke":
        tokens.revoke(options.name)
        print(f"{options.name}'s token is no longer valid.")
    else:
        if not tokens.list():
            print("there are no tokens.")
        for entry in tokens.list():
            print(f"{entry.name:<24} {entry.role.name.lower():<9} {_ends(entry.expires)}")
    return 0


def _ends(expires: float | None) -> str:
    if expires is None:
        return "never ends"
    words = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(expires))
    return f"ended {words}" if expires <= time.time() else f"until {words}"


def serve(options: argparse.Namespace) -> int:
    """``crosscam serve``: until it is stopped."""
    settings = ServiceSettings(
        **{f.name: getattr(options, f.name) for f in fields(ServiceSettings)}
    )
    if not 0 <= options.port <= 65_535:
        raise InputError(f"--port must be in [0, 65535], got {options.port}.")
    if (options.tls_cert is None) != (options.tls_key is None):
        raise InputError("TLS needs both --tls-cert and --tls-key.")
    if options.tls_cert:
        _require_tls(options.tls_cert, options.tls_key)
    if not (_loopback(options.host) or options.tls_cert or options.behind_proxy):
        raise InputError(
            f"{options.host} can be reached from other machines, and tokens would travel in the "
            "clear. Give --tls-cert and --tls-key, or --behind-proxy if a proxy encrypts."
        )
    lacking = "" if options.new else _lacking(options.gallery)
    if lacking:
        raise InputError(
            f"{lacking} Correct --gallery, or make one: crosscam gallery add PICTURES --gallery "
            f"{options.gallery} --model {options.model}. --new starts with an empty one, which is "
            "filled through the service."
        )
    state = _state(options)
    if not Tokens(state / "tokens.json").list():
        where = f"--state {state}" if options.state else f"--gallery {options.gallery}"
        raise InputError(
            "nobody may use this service yet. Make a token first: crosscam token add YOUR-NAME "
            f"--role admin {where}"
        )
    _require_free(options.host, options.port)  # before an encoder is loaded and a page promised
    try:
        import uvicorn

        from crosscam.serve.app import make_app
        from crosscam.serve.guards import hasty
        from crosscam.serve.service import Service
    except ImportError as error:
        raise MissingExtraError(
            "the service needs: pip install 'crosscam[serve,gallery]'."
        ) from error
    from crosscam.encoder import Encoder
    from crosscam.gallery import Gallery

    encoder = Encoder.load(options.model, precision=options.precision)
    calibration = _calibration(resolve(options.model), encoder, options.calibration)
    made = Gallery.create if options.new else Gallery.open
    gallery = made(options.gallery, encoder, pictures=options.pictures, doing="crosscam serve")
    with contextlib.ExitStack() as opened:
        opened.callback(gallery.close)
        _require_agreement(
            gallery, state, settings.retention_days, options.gallery, options.may_delete
        )
        service = Service(gallery, state, settings, calibration)
        opened.pop_all()
    scheme = "https" if options.tls_cert else "http"
    print(f"gallery   {options.gallery}: {counted(len(gallery), 'sighting')}, {encoder.name}")
    print(f"decisions {'calibrated on ' + calibration.data if calibration else 'not calibrated'}")
    print(f"page      {scheme}://{_in_address(options.host)}:{options.port}/", flush=True)
    with contextlib.closing(service):
        uvicorn.run(
            make_app(service),
            host=options.host,
            port=options.port,
            ssl_certfile=options.tls_cert,
            ssl_keyfile=options.tls_key,
            log_level="warning",
            access_log=False,  # the audit log says who did what; addresses are nobody's business
            server_header=False,
            http=hasty(settings.body_seconds),
            timeout_keep_alive=10,
            limit_concurrency=200,
            h11_max_incomplete_event_size=16_384,
        )
    return 0


def _lacking(place: str) -> str:
    """What is at ``place`` instead of a gallery, in a sentence; "" for one, and for a server."""
    folder = Path(place)
    if "://" in place or (folder / "gallery.json").is_file():
        return ""
    if folder.is_dir():
        names = sorted(p.name for p in folder.iterdir())
        holds = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "") or "nothing"
        there = f"{place} is not a gallery (it has no gallery.json, and holds {holds})"
    else:
        there = f"{place} is not a gallery (there is {'a file' if folder.exists() else 'nothing'})"
    others = [p.parent.name for p in folder.parent.glob("*/gallery.json")]
    near = difflib.get_close_matches(folder.name, others, 1)
    return f"{there}." + (f" Is {folder.with_name(near[0])} meant?" if near else "")


def _require_tls(certificate: Path, key: Path) -> None:
    """Refuse files that no TLS can be made of; an encrypted key is left to whoever asks for it."""
    for file in (certificate, key):
        try:
            file.read_bytes()
        except OSError as error:
            raise InputError(
                f"{file} cannot be read ({error.strerror or error}); TLS needs it. Correct "
                f"{'--tls-cert' if file is certificate else '--tls-key'}."
            ) from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError as error:
        raise InputError(
            f"{certificate} holds no certificate in PEM ({error.reason or error}). Give the chain "
            "with --tls-cert, the service's own certificate first."
        ) from error
    asked = False

    def passphrase() -> str:
        nonlocal asked
        asked = True
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, passphrase)
    except ssl.SSLError as error:
        if asked:
            return
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InputError(
                f"{key} is not the key of the certificate {certificate}. Give the one that it was "
                "made for with --tls-key."
            ) from error
        raise InputError(
            f"{key} holds no private key in PEM ({error.reason or error}). Give the key of "
            f"{certificate} with --tls-key."
        ) from error


def _in_address(host: str) -> str:
    """As a host stands in an address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _require_free(host: str, port: int) -> None:
    """Refuse an address that nobody can listen on: taken, reserved, or not of this machine."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as tried:
                if os.name == "posix":  # as the server does, so that it can start again at once
                    tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}). If another service "
            "has it, give another --port."
        ) from error


def _require_agreement(
    gallery: Gallery, state: Path, days: float, place: str, agreed: int = 0
) -> None:
    """A service must not delete an archive that nobody thought of; see ``retention``."""
    from crosscam.gallery import format_time
    from crosscam.serve.retention import DAY, Kept, recalled, unasked

    now = time.time()
    kept = Kept.read(state / "retention.json")
    # Without a retention nothing is due, whatever the log, which may be long, tells.
    said, ran = recalled(state / "audit.jsonl") if days else (None, 0.0)
    kept = kept or said
    due = unasked(gallery, kept, days, now, ran)
    if due <= max(agreed, 0):
        return
    day = format_time(float(round(now - DAY * days)))
    why = ""
    if kept is not None and not kept.days:
        why = " Until now sightings were kept for ever."
    elif kept is not None and days < kept.days:
        held = f"{kept.days:g} {either(kept.days, 'day', 'days')}"
        why = f" Until now sightings were kept for {held}."
    elif kept is not None:
        last = format_time(float(round(kept.until)))
        why = f" The service last deleted what was due at {last}; what is this old was added since."
    raise InputError(
        f"{due:,} of {counted(len(gallery), 'sighting')} {either(due, 'is', 'are')} older than "
        f"{days:g} {either(days, 'day', 'days')}, and this service would delete "
        f"{either(due, 'it', 'them')} for good.{why} Give --retention-days with what they may "
        f"be kept (0: for ever), agree with --may-delete {due}, or delete them yourself: crosscam "
        f"gallery forget --gallery {place} --before {day} (and --added-before)."
    )


def _calibration(model: Path, encoder: Any, file: Path | None = None) -> Calibration | None:
    from crosscam.decision import Calibration

    if file is not None:
        return Calibration.load(file, encoder.hash)
    try:
        return Calibration.beside(model, encoder.hash)
    except CheckpointError as error:
        raise InputError(f"{error} (Or move it away to serve without decisions.)") from error


def _state(options: argparse.Namespace) -> Path:
    if options.state is not None:
        found: Path = options.state
        return found
    if "://" in options.gallery:
        raise InputError("for a gallery on a server, name a folder with --state.")
    place = Path(options.gallery)
    return place.with_name(f"{place.name}.service")


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
