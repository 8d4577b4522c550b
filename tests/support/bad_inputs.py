"""Jobs that are wrong in one way each, and what people must be told about it.

A row says what is changed in a job that would run, and what the refusal must name: the field, the
value, and what would be right. No row may be made true by a stack trace or by silence.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from support.samples import IMAGE, training_job

Object = dict[str, Any]

TEAM = "bad-input"
UNLABELLED = "bad-input-unlabelled"
ROLELESS = "bad-input-roleless"
"""Enabled, and allowed at Vault's connection, but `vault setup` was never run for it."""
IDLE = "bad-input-idle"
"""Nothing is missing here, but no node runs its pods."""
DIGEST = "sha256:" + "d" * 64
GONE_KEK, PLAIN_KEK = "gone-models", "plain-models"


@dataclass(frozen=True, slots=True)
class Refused:
    """A job that the API server refuses."""

    name: str
    where: str
    """Path of the changed field below `spec`, or of one of `metadata`."""
    value: Any
    field: str
    """As the API server names it."""
    fix: str
    """Words of the refusal that say what would be right."""

    def manifest(self) -> Object:
        """The job."""
        return changed("digits-v7", TEAM, {self.where: self.value})


@dataclass(frozen=True, slots=True)
class Told:
    """A job that the API server takes, and the operator tells about in a condition."""

    name: str
    changes: Object
    """Values by their paths below `spec`."""
    reason: str
    field: str
    value: str
    fix: str
    phase: str = "Pending"
    namespace: str = TEAM
    launched: bool = False
    """Nobody can know it before a pod is made, or has looked."""

    def manifest(self) -> Object:
        """The job."""
        return changed(self.name, self.namespace, self.changes)


def changed(name: str, namespace: str, changes: Object) -> Object:
    """A job that would run, but for the changes; None takes a field away."""
    item = training_job(
        name, namespace, output={"uri": f"pvc://models/{name}", "kek": "app-models"}
    )
    for where, value in changes.items():
        node: Any = item if where.startswith("metadata/") else item["spec"]
        *parents, last = where.split("/")
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if value is None:
            del node[last]
        else:
            node[last] = copy.deepcopy(value)
    return item


def gate(**fields: Any) -> Object:
    """The one gate of a job."""
    return {"gates": [{"metric": "accuracy", **fields}]}


BOTH = {"limits": {"cpu": "1"}, "requests": {"cpu": "1500m"}}
PARAMETERS, SPEC = "model/parameters", "SecureTrainingJob"
SECRETS, SELECTOR, TOLERATIONS = "pod/imagePullSecrets", "pod/nodeSelector", "pod/tolerations"

REFUSED = (
    Refused("no-dataset", "datasets", None, "spec.datasets", "Required value"),
    Refused("empty-list", "datasets", [], "spec.datasets", "should have at least 1 items"),
    Refused("scheme", "datasets/0/uri", "gs://b/x", "spec.datasets[0].uri", "match '^(pvc"),
    Refused("up", "datasets/0/uri", "pvc://d/../x", "spec.datasets[0].uri", "match '^(pvc"),
    Refused("slash", "datasets/0/uri", "pvc://d/x/", "spec.datasets[0].uri", "match '^(pvc"),
    Refused("bucket", "output/uri", "s3://B/x", "spec.output.uri", "|s3://"),
    Refused("no-storage", "datasets/0/uri", "s3://data/x", "datasets[0]", "needs a storageRef"),
    Refused("storage", "output/storageRef", {"name": "minio"}, "output", "no other uri may"),
    Refused("nameless", "output/storageRef", {}, "spec.output.storageRef.name", "Required value"),
    Refused("no-claim", "datasets/0/uri", "pvc://a..b/x", "spec.datasets[0].uri", "should match"),
    Refused("digest", "datasets/0/digest", "sha256:1", "spec.datasets[0].digest", "{64}$"),
    Refused("case", "datasets/0/name", "Digits", "spec.datasets[0].name", "should match"),
    Refused("model", "model/architecture", "vit", "spec.model.architecture", '"cnn", "mlp"'),
    Refused("no-model", "model", None, "spec.model", "Required value"),
    Refused("other", PARAMETERS, {"layers": "2"}, "spec.model", "only filters, kernel, dense"),
    Refused("many", PARAMETERS, {"filters": "9999"}, "spec.model.parameters", "from 1 to 1024"),
    Refused("words", PARAMETERS, {"kernel": "three"}, "spec.model.parameters", "from 1 to 15"),
    Refused("half", PARAMETERS, {"dense": "1.5"}, "spec.model.parameters", "a whole number"),
    Refused("drop", PARAMETERS, {"dropout": "0.95"}, "spec.model.parameters", "from 0.0 to 0.9"),
    Refused("number", PARAMETERS, {"filters": 8}, "spec.model.parameters.filters", "string"),
    Refused("text", "training/epochs", "5", "spec.training.epochs", "of type integer"),
    Refused("none", "training/epochs", 0, "spec.training.epochs", "greater than or equal to 1"),
    Refused("batch", "training/batchSize", 10**6, "spec.training.batchSize", "equal to 65536"),
    Refused("seed", "training/seed", -1, "spec.training.seed", "greater than or equal to 0"),
    Refused("optimizer", "training/optimizer/name", "lion", "optimizer.name", '"adam", "sgd"'),
    Refused("rate", "training/optimizer/learningRate", 0, "learningRate", "greater than 0"),
    Refused("metric", "certification", gate(metric="acuracy", min=0.9), "gates[0]", "one of acc"),
    Refused("percent", "certification", gate(min=97), "gates[0]", "0.97, not 97"),
    Refused("below", "certification", gate(metric="loss", max=-1), "gates[0]", "not be negative"),
    Refused("boundless", "certification", gate(), "gates[0]", "needs min or max"),
    Refused("crossed", "certification", gate(min=0.9, max=0.1), "gates[0]", "above its max"),
    Refused("folder", "output/uri", "pvc://models", "spec.output", "such as pvc://models/digits"),
    Refused("within", "output/uri", "pvc://datasets/digits/m", "spec", "not lie within"),
    Refused("long", "output/uri", "pvc://m/" + "x" * 201, "spec.output.uri", "{0,199}"),
    Refused("kek", "output/kek", "../root", "spec.output.kek", "should match"),
    Refused("exists", "output/ifExists", "Overwrite", "output.ifExists", '"Fail", "Replace"'),
    Refused("tag", "pod/image", "registry/x:latest", "spec.pod.image", "@sha256:"),
    Refused("memory", "pod/resources", {"limits": {"memory": "2GB"}}, "memory", "should match"),
    Refused("less", "pod/resources", {"limits": {"cpu": -1}}, "limits.cpu", "or equal to 0"),
    Refused("above", "pod/resources", BOTH, "spec.pod.resources", "raise the limit"),
    Refused("gpu", "pod/resources", {"limits": {"gpu": 1}}, "pod.resources", "nvidia.com/gpu"),
    Refused("certify", "certification/resources", BOTH, "certification.resources", "the limit"),
    Refused("selector", SELECTOR, {"a b": "c"}, "spec.pod.nodeSelector", "name of a label"),
    Refused("label", SELECTOR, {"a": "b c"}, "spec.pod.nodeSelector.a", "should match"),
    Refused("keyless", TOLERATIONS, [{"value": "x"}], "tolerations[0]", "or use Exists"),
    Refused(
        "valued",
        TOLERATIONS,
        [{"key": "a", "operator": "Exists", "value": "x"}],
        "tolerations[0]",
        "leave it away",
    ),
    Refused(
        "timed", TOLERATIONS, [{"key": "a", "tolerationSeconds": 5}], "tolerations[0]", "NoExecute"
    ),
    Refused("secret", SECRETS, [{"name": "A b"}], "imagePullSecrets[0].name", "should match"),
    Refused("twice", SECRETS, [{"name": "x"}] * 2, "imagePullSecrets[1]", "Duplicate value"),
    Refused("class", "pod/priorityClassName", "No!", "priorityClassName", "should match"),
    Refused("address", "vaultConnectionRef/name", "https://evil", "ConnectionRef.name", "match"),
    Refused("flag", "suspend", "yes", "spec.suspend", "of type boolean"),
    Refused("retries", "backoffLimit", 101, "spec.backoffLimit", "less than or equal to 100"),
    Refused("at-once", "activeDeadlineSeconds", 0, "activeDeadlineSeconds", "or equal to 1"),
    Refused("never", "startingDeadlineSeconds", 2**40, "startingDeadline", "equal to 2147483647"),
    Refused("unknown", "epochs", 5, "spec.epochs", "unknown field"),
    Refused("digit", "metadata/name", "7digits", SPEC, "starts with a letter"),
    Refused("dots", "metadata/name", "digits.v7", SPEC, "a lower-case DNS label"),
    Refused("length", "metadata/name", "d" * 51, SPEC, "at most 50 characters"),
)

TOLD = (
    Told(
        "unlabelled",
        {},
        "NamespaceNotEnabled",
        "namespace",
        UNLABELLED,
        f"kubectl label namespace {UNLABELLED} securetrain.dev/jobs=enabled",
        namespace=UNLABELLED,
    ),
    Told(
        "no-connection",
        {"vaultConnectionRef/name": "other"},
        "VaultConnectionUnknown",
        "spec.vaultConnectionRef.name",
        "other",
        "operator's settings",
    ),
    Told(
        "foreign-connection",
        {"vaultConnectionRef/name": "elsewhere"},
        "VaultConnectionNotAllowed",
        "spec.vaultConnectionRef.name",
        "elsewhere",
        f"add {TEAM} to its allowedNamespaces",
    ),
    Told(
        "no-storage-connection",
        {"datasets/0/uri": "s3://data/digits", "datasets/0/storageRef": {"name": "minio"}},
        "StorageConnectionUnknown",
        "spec.datasets[0].storageRef.name",
        "minio",
        "operator's settings",
    ),
    Told(
        "vault-away",
        {"vaultConnectionRef/name": "away"},
        "VaultUnavailable",
        "Vault connection",
        "away",
        "check that Vault runs",
    ),
    Told(
        "no-role",
        {},
        "VaultRoleMissing",
        "Vault connection",
        "no such role",
        f"securetrain vault setup for namespace {ROLELESS}",
        namespace=ROLELESS,
    ),
    Told(
        "foreign-image",
        {"pod/image": IMAGE},
        "ImageNotAllowed",
        "spec.pod.image",
        IMAGE,
        "use the built-in image",
        phase="Failed",
    ),
    Told(
        "foreign-claim",
        {"output/uri": "pvc://private/x"},
        "ClaimNotAllowed",
        "spec.output.uri",
        "private",
        "use another claim",
        phase="Failed",
    ),
    Told(
        "no-such-claim",
        {"datasets/0/uri": "pvc://x/digits"},
        "ClaimMissing",
        "spec.datasets[0].uri",
        "claim x",
        f"create the PersistentVolumeClaim in namespace {TEAM}",
    ),
    Told(
        "kek-of-others",
        {"output/kek": "others-models"},
        "OutputKekUnusable",
        "spec.output.kek",
        "others-models",
        f"--namespace {TEAM} --model-kek others-models",
    ),
    Told(
        "kek-of-data",
        {"output/kek": "app-digits"},
        "OutputKekUnusable",
        "spec.output.kek",
        "app-digits",
        "securetrain vault setup",
    ),
    Told(
        "kek-gone",
        {"output/kek": GONE_KEK},
        "OutputKekUnusable",
        "spec.output.kek",
        GONE_KEK,
        "securetrain vault setup",
    ),
    Told(
        "kek-not-derived",
        {"output/kek": PLAIN_KEK},
        "OutputKekUnusable",
        "spec.output.kek",
        PLAIN_KEK,
        "securetrain vault setup",
    ),
    Told(
        "too-late",
        {"startingDeadlineSeconds": 2, "datasets/0/uri": "pvc://missing/digits"},
        "StartingDeadlineExceeded",
        "spec.startingDeadlineSeconds",
        "2 s",
        "create the PersistentVolumeClaim",
        phase="Failed",
    ),
    Told(
        "too-long",
        {"activeDeadlineSeconds": 1},
        "DeadlineExceeded",
        "spec.activeDeadlineSeconds",
        "longer than",
        "raise spec.activeDeadlineSeconds",
        phase="Failed",
        namespace=IDLE,
        launched=True,
    ),
    Told(
        "no-such-priority",
        {"pod/priorityClassName": "no-such-class"},
        "PodsMissing",
        "spec.pod.priorityClassName",
        "no-such-class",
        "see the Job's Events",
        launched=True,
    ),
    Told(
        "too-big",
        {"pod/resources": {"limits": {"cpu": "512"}}},
        "Unschedulable",
        "spec.pod",
        "Insufficient cpu",
        "change spec.pod.resources",
        namespace=IDLE,
        launched=True,
    ),
    Told(
        "no-dataset",
        {"datasets/0/uri": "pvc://datasets/none"},
        "ManifestInvalid",
        "dataset.json",
        "does not exist",
        "restore the file",
        phase="Failed",
        launched=True,
    ),
    Told(
        "other-dataset",
        {"datasets/0/digest": DIGEST},
        "ManifestInvalid",
        "datasets[].digest",
        DIGEST,
        "make a new job with the digest that is meant",
        phase="Failed",
        launched=True,
    ),
    Told(
        "taken",
        {},
        "OutputExists",
        "taken",
        "exists already",
        "ifExists: Replace",
        phase="Failed",
        launched=True,
    ),
    Told(
        "too-wide",
        {PARAMETERS: {"hidden": "8192", "layers": "16"}, "model/architecture": "mlp"},
        "InvalidInput",
        "model.parameters",
        "8192",
        "choose smaller layers",
        phase="Failed",
        launched=True,
    ),
    Told(
        "data-of-others",
        {"datasets/0/uri": "pvc://datasets/others"},
        "PolicyDenied",
        "namespaces",
        TEAM,
        "ask the data owner",
        phase="Failed",
        launched=True,
    ),
    Told(
        "data-of-yesterday",
        {"datasets/0/uri": "pvc://datasets/expired"},
        "PolicyDenied",
        "notAfter",
        "use before 2020-01-01",
        "ask the data owner",
        phase="Failed",
        launched=True,
    ),
    Told(
        "too-easy",
        {"datasets/0/uri": "pvc://datasets/gated", "certification": gate(min=0.5)},
        "PolicyDenied",
        "gates",
        "accuracy ≥ 0.5",
        "ask the data owner",
        phase="Failed",
        launched=True,
    ),
    Told(
        "kek-against-policy",
        {"datasets/0/uri": "pvc://datasets/others-keks"},
        "PolicyDenied",
        "outputKeks",
        "app-models",
        "ask the data owner",
        phase="Failed",
        launched=True,
    ),
)

POLICIES: dict[str, Object] = {
    "digits": {},
    "others": {"namespaces": ["others"]},
    "expired": {"notAfter": "2020-01-01T00:00:00Z"},
    "gated": {"gates": [{"metric": "accuracy", "min": "0.9"}]},
    "others-keks": {"outputKeks": ["others-models"]},
}
"""Datasets of the team, and what is changed in the policy that would let its jobs use them."""
