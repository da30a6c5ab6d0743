"""Request checks (Host, Origin, CSRF header) and the content security policy of the studio's page."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glassbox.serving.errors import ApiError, error_response
from glassbox.serving.gate import is_loopback

OWN_HEADER = "x-glassbox-studio"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def is_page(path: str) -> bool:
    """Whether a path is a view or a file of the page, which hold no data and need no key."""
    return not path.startswith(("/api/", "/models/"))


class Guard:
    """Refuses requests that another site's page makes through the user's browser.

    The Host header must name this machine (DNS rebinding); Origin, and Sec-Fetch-Site where the
    browser sends it, must be this page's own; and what changes anything must carry a header that a
    browser lets no foreign page send (CSRF). Adds the content security policy to every answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI call."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        error = _refuse(scope)
        if error is not None:
            await error_response(error)(scope, receive, sending)
            return
        await self.app(scope, receive, sending)


def _refuse(scope: Scope) -> ApiError | None:
    headers, path = Headers(scope=scope), scope["path"]
    host = headers.get("host", "")
    if not is_loopback(host_name(host)):
        return ApiError(
            403,
            "the studio answers only to localhost, 127.0.0.1 or [::1]",
            code="host_not_allowed",
        )
    if is_page(path):
        return None
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "same-origin")
    foreign = site not in ("same-origin", "none") or (
        origin is not None and origin != f"http://{host}"
    )
    changes = scope["method"] not in ("GET", "HEAD")
    unmarked = path.startswith("/api/") and changes and OWN_HEADER not in headers
    if foreign or unmarked:
        return ApiError(
            403,
            f"only the studio's own page may ask this; a program sends the header {OWN_HEADER}: 1",
            code="origin_not_allowed",
        )
    return None


def host_name(host: str) -> str:
    """A Host header without its port.

    >>> host_name("localhost:80"), host_name("[::1]:80"), host_name("a.b")
    ('localhost', '::1', 'a.b')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
