"""What every connection in the operator's settings has: a name, and who may use it from where."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, Field

from securetrain.api.types import DNS_LABEL, Model, Name

NamespaceOrAll = Annotated[str, Field(pattern=rf"^\*$|{DNS_LABEL}", max_length=63)]
HttpsUrl = Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.\-\[\]:]+$", max_length=253)]


def _network(text: str) -> str:
    try:
        ip_network(text)
    except ValueError:
        raise ValueError("write a network, such as 192.0.2.0/24, without host bits") from None
    return text


Cidr = Annotated[str, AfterValidator(_network)]


class Connection(Model):
    """A server that jobs reach by name: whoever writes its address could steal logins."""

    name: Name = "default"
    allowed_namespaces: tuple[NamespaceOrAll, ...] = ()
    """Namespaces whose jobs may name this connection; `*` alone means all."""
    egress_cidrs: tuple[Cidr, ...] = ()
    """Where job pods may connect to reach the server."""

    def allows(self, namespace: str) -> bool:
        """True if jobs of `namespace` may use this connection."""
        return "*" in self.allowed_namespaces or namespace in self.allowed_namespaces
