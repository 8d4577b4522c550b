"""Jobs of the end-to-end tests whose dataset and model lie in a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from localcluster import network
from localcluster.platform import Platform
from support import sealing
from support.buckets import upload
from support.outcomes import NAMESPACE
from support.s3_server import S3Server

BUCKET: Final = "securetrain-e2e"
SECRET: Final = "s3-login"
LOCAL, FORGOTTEN = "local", "forgotten"
"""Storage connections: one that works, and one whose Secret nobody has made."""


def connections(s3: S3Server) -> list[dict[str, Any]]:
    """The storage connections, as in the chart's values."""
    server = {
        "endpoint": f"https://{network.HOST}:{s3.server.port}",
        "ca": s3.ca_pem,
        "allowedNamespaces": [NAMESPACE],
    }
    names = {LOCAL: SECRET, FORGOTTEN: "no-such-login"}
    return [{"name": n, "credentialsSecret": secret, **server} for n, secret in names.items()]


def submit(platform: Platform, dataset: Path, s3: S3Server) -> None:
    """Upload a sealed dataset, make the login, and submit the jobs."""
    if BUCKET not in {found["Name"] for found in s3.client.list_buckets()["Buckets"]}:
        s3.client.create_bucket(Bucket=BUCKET)
    for name in s3.names(BUCKET):
        s3.client.delete_object(Bucket=BUCKET, Key=name)
    upload(s3, dataset, f"s3://{BUCKET}/{dataset.name}")
    platform.cluster.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": NAMESPACE},
            "stringData": {
                "AWS_ACCESS_KEY_ID": s3.access_key,
                "AWS_SECRET_ACCESS_KEY": s3.secret_key.reveal_text(),
            },
        },
        job("bucket", dataset.name, LOCAL),
        job("no-login", dataset.name, FORGOTTEN, pod=sealing.IDLE),
    )


def job(name: str, dataset: str, storage: str, **changes: Any) -> dict[str, Any]:
    """A job with both ends in the bucket."""
    ref = {"storageRef": {"name": storage}}
    output = {"uri": f"s3://{BUCKET}/models/{name}", "kek": f"{NAMESPACE}-models"}
    source = {"name": "digits", "uri": f"s3://{BUCKET}/{dataset}"}
    return sealing.manifest(
        NAMESPACE, name, "", datasets=[source | ref], output=output | ref, **changes
    )
