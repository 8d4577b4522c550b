"""A named storage connection: an operator setting, never part of a job.

The endpoint is https without exception, on loopback too: plain HTTP would show a session token and
let anybody on the way answer. Test servers have certificates as well.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from securetrain.api.gateway import ObjectStorage
from securetrain.api.types import ObjectName
from securetrain.connections import Connection, HttpsUrl

Region = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=63)]


class StorageConnection(Connection):
    """Where an S3 server is, and the Secret that holds the login of a namespace's jobs."""

    endpoint: HttpsUrl
    region: Region = "us-east-1"
    ca: Annotated[str, Field(min_length=1, max_length=1 << 20)] | None = None
    """PEM bundle that the server's certificate is checked against; the system's roots if absent."""
    credentials_secret: ObjectName
    """Name of the Secret, in each job's own namespace, with `AWS_ACCESS_KEY_ID`,
    `AWS_SECRET_ACCESS_KEY` and perhaps `AWS_SESSION_TOKEN`; only kubelet reads it."""

    def told(self, folder: str) -> ObjectStorage:
        """What a pod is told of it; `folder` is where its credentials are mounted."""
        return ObjectStorage(
            name=self.name,
            endpoint=self.endpoint,
            region=self.region,
            ca=self.ca,
            credentials=folder,
        )
