"""A real S3 server for tests, and buckets on it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.session import Session

from localcluster.versitygw import VersityGateway
from securetrain.secret import Secret

REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """The server that serves the fixture `s3_server`, and a view of it that is not our client."""

    server: VersityGateway

    @property
    def endpoint(self) -> str:
        return self.server.address

    @property
    def ca_pem(self) -> str:
        return self.server.ca_pem

    @property
    def ca_file(self) -> Path:
        return self.server.ca_file

    @property
    def access_key(self) -> str:
        return self.server.access_key

    @property
    def secret_key(self) -> Secret:
        return self.server.secret_key

    @cached_property
    def client(self) -> Any:
        """botocore's own client, as the administrator."""
        return Session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=self.endpoint,
            verify=str(self.ca_file),
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key.reveal_text(),
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                # The server misreads some bodies that come with a checksum behind them.
                request_checksum_calculation="when_required",
            ),
        )

    def bucket(self) -> str:
        """A new, empty bucket's name."""
        name = f"bucket-{secrets.token_hex(6)}"
        self.client.create_bucket(Bucket=name)
        return name

    def names(self, bucket: str, prefix: str = "") -> set[str]:
        """Names of the (at most 1000) objects below a prefix."""
        answer = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix)
        return {entry["Key"] for entry in answer.get("Contents", ())}
