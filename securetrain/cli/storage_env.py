"""An S3 server as the command line finds it: in the options, variables and files of AWS's own."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from securetrain.api.gateway import ObjectStorage
from securetrain.cli.user_files import read_text
from securetrain.errors import InvalidInput, UsageError
from securetrain.secret import Secret
from securetrain.storage.credentials import (
    ACCESS_KEY_ID,
    SECRET_ACCESS_KEY,
    SESSION_TOKEN,
    Credentials,
)

DEFAULT_PROFILE: Final = "default"
DEFAULT_REGION: Final = "us-east-1"
CREDENTIALS_FILE: Final = ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")
CONFIG_FILE: Final = ("AWS_CONFIG_FILE", ".aws/config")
_ENDPOINT: Final = re.compile(r"https://[A-Za-z0-9.\-\[\]:]{1,240}")
_REGION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

EndpointOption = Annotated[
    str | None,
    typer.Option(
        help="Address of the S3 server, https://….",
        envvar=["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
    ),
]
CaOption = Annotated[
    Path | None, typer.Option(help="PEM file of the S3 server's CA.", envvar="AWS_CA_BUNDLE")
]
RegionOption = Annotated[
    str | None,
    typer.Option(help="Region of the S3 server.", envvar=["AWS_REGION", "AWS_DEFAULT_REGION"]),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(help="Profile of ~/.aws/credentials with the S3 login; else AWS_PROFILE."),
]


@dataclass(frozen=True, slots=True)
class S3Options:
    """What was said about the S3 server; the rest comes from the profile."""

    endpoint: str | None = None
    ca: Path | None = None
    region: str | None = None
    profile: str | None = None

    @property
    def name(self) -> str:
        """The profile's name."""
        return self.profile or os.environ.get("AWS_PROFILE") or DEFAULT_PROFILE

    @property
    def arguments(self) -> list[str]:
        """The same options again, for a command that goes on."""
        said = (
            ("--endpoint", self.endpoint),
            ("--ca", self.ca),
            ("--region", self.region),
            ("--profile", self.profile),
        )
        return [text for name, value in said if value for text in (name, str(value))]


def server(options: S3Options) -> ObjectStorage:
    """The server, by options, variables or the profile's `endpoint_url`, `region`, `ca_bundle`.

    Raises:
        UsageError: no endpoint.
        InvalidInput: a value that cannot be used.
    """
    name = options.name
    section = name if name == DEFAULT_PROFILE else f"profile {name}"
    noted = _section(CONFIG_FILE, section)
    endpoint = options.endpoint or noted.get("endpoint_url", "")
    if not endpoint:
        raise UsageError(
            "--endpoint is needed: which S3 server?",
            fix="give --endpoint https://…, or set AWS_ENDPOINT_URL_S3, or name --profile",
        )
    endpoint = endpoint.rstrip("/")
    if not _ENDPOINT.fullmatch(endpoint):
        fix = "write https://HOST or https://HOST:PORT; a login never goes over plain HTTP"
        raise InvalidInput("--endpoint", endpoint, "is no address of an S3 server", fix=fix)
    region = options.region or noted.get("region", DEFAULT_REGION)
    if not _REGION.fullmatch(region):
        raise InvalidInput("--region", region, "is no region", fix="write it as us-east-1")
    ca = options.ca or (Path(noted["ca_bundle"]) if "ca_bundle" in noted else None)
    return ObjectStorage(
        name=f"profile {name}",
        endpoint=endpoint,
        region=region,
        ca=None if ca is None else _ca(ca),
        credentials="",
    )


def login(options: S3Options) -> Credentials:
    """The caller's own login: of the profile that was named, else of the variables, else default.

    Raises:
        UsageError: there is none.
        InvalidInput: the file is not one of profiles.
    """
    environment = os.environ
    if options.profile is None and environment.get(ACCESS_KEY_ID):
        return _credentials(environment, f"{ACCESS_KEY_ID} and {SECRET_ACCESS_KEY}")
    section = _section(CREDENTIALS_FILE, options.name)
    found = {key.upper(): value for key, value in section.items()}
    return _credentials(found, f"profile {options.name!r} of ~/{CREDENTIALS_FILE[1]}")


def _credentials(found: Mapping[str, str], where: str) -> Credentials:
    key, secret = found.get(ACCESS_KEY_ID, ""), found.get(SECRET_ACCESS_KEY, "")
    if not key or not secret:
        raise UsageError(
            f"There is no S3 login in {where}.",
            fix=f"aws configure, or set {ACCESS_KEY_ID} and {SECRET_ACCESS_KEY}, or name --profile",
        )
    token = found.get(SESSION_TOKEN)
    return Credentials(
        Secret.from_text(key), Secret.from_text(secret), Secret.from_text(token) if token else None
    )


def _ca(file: Path) -> str:
    text = read_text("--ca", file)
    if "BEGIN CERTIFICATE" not in text:
        raise InvalidInput("--ca", str(file), "holds no certificate", fix="name a PEM file")
    return text


def _section(place: tuple[str, str], name: str) -> Mapping[str, str]:
    """A section of one of AWS's files; empty if there is no such file or section."""
    variable, usual = place
    said = os.environ.get(variable, "")
    file = Path(said).expanduser() if said else Path.home() / usual
    if not said and not file.is_file():
        return {}
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(read_text(variable, file))
    except configparser.Error:  # its text quotes lines, and they hold secrets
        raise InvalidInput(
            variable, str(file), "is no file of profiles", fix="write [PROFILE], then NAME = VALUE"
        ) from None
    return dict(parser[name]) if parser.has_section(name) else {}
