"""Files, settings, values and command lines that are wrong in one way each, and what must be said.

A row changes one thing in a file that is right. What is said must name the field, the value or what
the file holds in its place, and what to do; a row's `code` is of the one table of exit codes.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

GONE = object()
"""Takes a field away."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """One wrong thing."""

    name: str
    change: Any
    """A dict of values by paths such as `a/0/b`, or the whole content as text."""
    field: str
    value: str
    fix: str
    file: str = ""

    def applied(self, good: Object) -> str:
        """The content, as JSON unless it is given as text."""
        if isinstance(self.change, str):
            return self.change
        return json.dumps(altered(good, self.change))


def altered(good: Object, change: Object) -> Object:
    """A copy with some values set or taken away."""
    item = copy.deepcopy(good)
    for where, value in change.items():
        node: Any = item
        *parents, last = where.split("/")
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        key: Any = int(last) if isinstance(node, list) else last
        if value is GONE:
            del node[key]
        else:
            node[key] = value
    return item


SEE_POLICY = "securetrain new policy"

POLICIES = (
    Wrong("no-end", {"notAfter": GONE}, "notAfter", "is required and missing", SEE_POLICY),
    Wrong("no-date", {"notAfter": "soon"}, "notAfter", "'soon'", SEE_POLICY),
    Wrong("no-such-day", {"notAfter": "2026-02-31T00:00:00Z"}, "policy", "day is out", SEE_POLICY),
    Wrong("nobody", {"namespaces": []}, "namespaces", "[]", SEE_POLICY),
    Wrong("star", {"namespaces": ["*"]}, "namespaces.0", "'*'", SEE_POLICY),
    Wrong("tag", {"images": ["x:latest"]}, "images.0", "'x:latest'", SEE_POLICY),
    Wrong("kek", {"outputKeks": ["../root"]}, "outputKeks.0", "'../root'", SEE_POLICY),
    Wrong("text", {"networkIsolation": "yes"}, "networkIsolation", "'yes'", SEE_POLICY),
    Wrong("misspelt", {"namespacs": []}, "namespacs", "unknown field", SEE_POLICY),
    Wrong("float", {"gates": [{"metric": "accuracy", "min": 0.9}]}, "policy", "0.9", "new policy"),
    Wrong("format", {"format": "securetrain/policy/v9"}, "format", "policy/v9", SEE_POLICY),
    Wrong("not-json", "namespaces: [a]", "policy", "is not JSON", SEE_POLICY),
    Wrong("twice", '{"format": "a", "format": "b"}', "format", "twice", SEE_POLICY),
)

RESTORE = "restore the file"
MANIFEST, KEYS, INDEX = "dataset.json", "keys.json", "train.index.jsonl"

FOLDERS = (
    Wrong("id", {"id": "7"}, "dataset.json: id", "'7'", RESTORE, MANIFEST),
    Wrong("cipher", {"cipher": "AES_CBC"}, "dataset.json: cipher", "'AES_CBC'", RESTORE, MANIFEST),
    Wrong("none", {"splits/test": GONE}, "dataset.json", "splits must be", RESTORE, MANIFEST),
    Wrong("classes", {"task/classes": 1}, "task.classes", "1", RESTORE, MANIFEST),
    Wrong(
        "negative", {"splits/train/records": -1}, "splits.train.records", "-1", RESTORE, MANIFEST
    ),
    Wrong("new", {"compression": "zip"}, "compression", "unknown field", RESTORE, MANIFEST),
    Wrong("cut", '{"format": "securetrain', MANIFEST, "is not JSON", RESTORE, MANIFEST),
    Wrong("huge", "[" * (1 << 20) + "]", MANIFEST, "1048577 bytes", RESTORE, MANIFEST),
    Wrong("wrapped", {"keys/train/wrapped": "x"}, "keys.train.wrapped", "'x'", RESTORE, KEYS),
    Wrong("mount", {"keys/train/mount": "../x"}, "keys.train.mount", "'../x'", RESTORE, KEYS),
    Wrong("keyless", {"keys/train": GONE}, "keys.json", "keys must be", RESTORE, KEYS),
    Wrong("other", "{}\n", INDEX, "is not the index that dataset.json names", RESTORE, INDEX),
)

IN_VALUES = "or in the chart's values"
S3 = {"name": "minio", "endpoint": "https://minio:9000", "credentialsSecret": "minio-login"}

SETTINGS = (
    Wrong("no-image", {"trainerImage": GONE}, "trainerImage", "missing", IN_VALUES),
    Wrong("tag", {"trainerImage": "x:latest"}, "trainerImage", "'x:latest'", IN_VALUES),
    Wrong("namespace", {"namespace": "A b"}, "namespace", "'A b'", IN_VALUES),
    Wrong("plain", {"gatewayUrl": "http://x"}, "gatewayUrl", "'http://x'", IN_VALUES),
    Wrong("nameless", {"gatewayNames": []}, "gatewayNames", "[]", IN_VALUES),
    Wrong("port", {"gatewayPort": 70_000}, "gatewayPort", "70000", IN_VALUES),
    Wrong("same", {"healthPort": 8443}, "healthPort", "8443", IN_VALUES),
    Wrong("name", {"listenAddress": "localhost"}, "listenAddress", "'localhost'", IN_VALUES),
    Wrong("text", {"workers": "4"}, "workers", "'4'", IN_VALUES),
    Wrong("often", {"resyncSeconds": 1}, "resyncSeconds", "1 ", IN_VALUES),
    Wrong("no-vault", {"vaultConnections": []}, "vaultConnections", "[]", IN_VALUES),
    Wrong(
        "http",
        {"vaultConnections/0/address": "http://x"},
        "Connections.0.address",
        "'http://x'",
        IN_VALUES,
    ),
    Wrong(
        "no-ca", {"vaultConnections/0/ca": "none"}, "Connections.0.ca", "no certificate", IN_VALUES
    ),
    Wrong(
        "cidr",
        {"vaultConnections/0/egressCidrs": ["10.0.0.1/8"]},
        "egressCidrs.0",
        "10.0.0.1/8",
        "such as 192.0.2.0/24",
    ),
    Wrong(
        "storage",
        {"storageConnections": [S3 | {"endpoint": "http://x"}]},
        "storageConnections.0.endpoint",
        "'http://x'",
        IN_VALUES,
    ),
    Wrong(
        "storage-ca",
        {"storageConnections": [S3 | {"ca": "none"}]},
        "storageConnections.0.ca",
        "no certificate",
        IN_VALUES,
    ),
    Wrong("two", {"storageConnections": [S3, S3]}, "storageConnections", "name minio", IN_VALUES),
    Wrong("claims", {"namespaces": {"*": {"claims": ["A b"]}}}, "claims.0", "'A b'", IN_VALUES),
    Wrong("image", {"namespaces": {"*": {"images": ["x:1"]}}}, "images.0", "'x:1'", IN_VALUES),
    Wrong("misspelt", {"resyncSecond": 30}, "resyncSecond", "unknown field", IN_VALUES),
    Wrong("list", "[1, 2]", "settings", "exactly one object", IN_VALUES),
    Wrong("no-yaml", "a: [", "settings", "is not YAML in line 1", IN_VALUES),
    Wrong("twice", "audience: a\naudience: b", "'audience'", "twice", IN_VALUES),
)

VALUES = (
    Wrong("nameless", {"clusterName": ""}, "clusterName", "''", "pattern"),
    Wrong("tag", {"image/trainer": "x:latest"}, "image/trainer", "x:latest", "sha256"),
    Wrong("no-vault", {"vault/connections": []}, "vault/connections", "0", "minItems"),
    Wrong("http", {"vault/connections/0/address": "http://v"}, "address", "http://v", "https"),
    Wrong("no-ca", {"vault/connections/0/ca": GONE}, "connections/0", "'ca'", "missing"),
    Wrong(
        "cidr", {"vault/connections/0/egressCidrs": ["here"]}, "egressCidrs/0", "here", "pattern"
    ),
    Wrong(
        "storage",
        {"storage": {"connections": [{}]}},
        "connections/0",
        "'credentialsSecret'",
        "miss",
    ),
    Wrong(
        "login",
        {"storage": {"connections": [S3 | {"secretKey": "x"}]}},
        "0",
        "secretKey",
        "not allowed",
    ),
    Wrong("text", {"settings": {"workers": "4"}}, "settings/workers", "string", "integer"),
    Wrong("many", {"settings": {"maxGrantsPerPhase": 99}}, "maxGrantsPerPhase", "99", "32"),
    Wrong("misspelt", {"watchNamespace": []}, "watchNamespace", "additional", "not allowed"),
    Wrong("label", {"watchNamespaces": ["A b"]}, "watchNamespaces/0", "A b", "pattern"),
    Wrong(
        "quote", {"guards": {"jobWriters": ["x' || true"]}}, "jobWriters/0", "|| true", "pattern"
    ),
    Wrong(
        "claims", {"namespaces": {"a": {"claims": "*"}}}, "namespaces/a/claims", "string", "array"
    ),
    Wrong("claim", {"namespaces": {"a": {"claims": ["A b"]}}}, "claims/0", "A b", "pattern"),
    Wrong(
        "nowhere", {"vault/connections/0/allowedNamespaces": ["A b"]}, "Namespaces/0", "A b", "p"
    ),
)

NEW_JOB = ["new", "job", "--name", "a", "--kek", "k", "--output-uri", "pvc://m/a"]
HELP = "--help"

COMMANDS: tuple[tuple[int, list[str], Wrong], ...] = (
    (2, ["sael"], Wrong("command", "", "No such command", "sael", HELP)),
    (2, ["watch"], Wrong("no-name", "", "Missing argument", "'name'", HELP)),
    (2, ["watch", "a", "--now"], Wrong("option", "", "No such option", "--now", HELP)),
    (2, ["watch", "a", "--timeout", "x"], Wrong("number", "", "--timeout", "a valid number", HELP)),
    (2, ["watch", "a", "--output", "xml"], Wrong("form", "", "--output", "'xml'", HELP)),
    (2, NEW_JOB, Wrong("no-dataset", "", "Missing option", "--dataset", HELP)),
    (2, ["vault", "public-key"], Wrong("no-vault", "", "VAULT_ADDR", "not set", "export VAULT")),
    (
        13,
        [*NEW_JOB, "--dataset", "gs://b/x"],
        Wrong("scheme", "", "spec.datasets.0.uri", "'gs://b/x'", "docs/reference.md"),
    ),
    (
        13,
        [*NEW_JOB, "--dataset", "pvc://d/x", "--storage", "minio"],
        Wrong("unneeded", "", "--storage", "'minio'", "leave it away"),
    ),
    (
        13,
        [*NEW_JOB, "--dataset", "s3://data/x"],
        Wrong("storage", "", "spec.datasets.0", "needs a storageRef", "docs/reference.md"),
    ),
    (
        13,
        [*NEW_JOB, "--dataset", "pvc://d/x", "--gate", "accuracy"],
        Wrong("gate", "", "--gate", "'accuracy'", "METRIC>=NUMBER"),
    ),
    (
        13,
        [*NEW_JOB, "--dataset", "pvc://d/x", "--gate", "accuracy>=97"],
        Wrong("percent", "", "gates.0", "0.97, not 97", "docs/reference.md"),
    ),
    (13, ["submit", "absent.yaml"], Wrong("file", "", "FILE", "'absent.yaml'", "text file")),
    (13, ["inspect", "absent"], Wrong("folder", "", "FOLDER", "'absent'", "sealed dataset")),
    (
        13,
        ["policy", "check", "absent"],
        Wrong("policy", "", "policy", "'absent'", "securetrain new policy"),
    ),
    (13, ["verify", "absent", "--key", "k"], Wrong("model", "", "FOLDER", "'absent'", "folder")),
    (13, ["verify", ".", "--key", "absent"], Wrong("key", "", "--key", "'absent'", "text file")),
    (13, ["watch", "a"], Wrong("cluster", "", "kubeconfig", "no usable", "KUBECONFIG")),
)

SEE = "docs/reference.md"

JOBS = (
    Wrong("text", {"spec/training": {"epochs": "5"}}, "spec.training.epochs", "'5'", SEE),
    Wrong("flag", {"spec/suspend": "yes"}, "spec.suspend", "'yes'", SEE),
    Wrong("number", {"spec/model/parameters": {"filters": 8}}, "parameters.filters", "8", SEE),
    Wrong("true", {"spec/backoffLimit": True}, "spec.backoffLimit", "True", SEE),
    Wrong("snake", {"spec/vault_connection_ref": {}}, "vault_connection_ref", "unknown", SEE),
    Wrong(
        "metric",
        {"spec/certification": {"gates": [{"metric": "f1", "min": 1}]}},
        "gates.0",
        "f1",
        SEE,
    ),
    Wrong("model", {"spec/model/architecture": "vit"}, "model.architecture", "'vit'", SEE),
    Wrong("no-output", {"spec/output": GONE}, "spec.output", "missing", SEE),
    Wrong("name", {"metadata/name": "A b"}, "metadata.name", "'A b'", "lower-case"),
    Wrong("kind", {"kind": "Job"}, "kind", "'Job'", "SecureTrainingJob"),
    Wrong("version", {"apiVersion": "v1"}, "apiVersion", "'v1'", "v1alpha1"),
    Wrong("empty", "", "FILE", "exactly one object", "keep one"),
    Wrong("two", "a: 1\n---\nb: 2\n", "FILE", "exactly one object", "keep one"),
    Wrong("no-yaml", "a: [", "FILE", "is not YAML in line 1", "correct the file"),
    Wrong("twice", "kind: a\nkind: b\n", "'kind'", "twice", "correct the file"),
    Wrong(
        "bomb",
        "a: &a [x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{b}: &{b} [{','.join(['*' + a] * 8)}]\n"
            for a, b in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "FILE",
        "more than 20000 values",
        "correct the file",
    ),
)
