"""A real Vault, an owner's login, small sealed datasets, and a gateway that asks that Vault."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcluster.openbao import OpenBao
from securetrain.api.names import Purpose
from securetrain.sealed.dataset import load_dataset
from securetrain.sealed.writer import SealOptions, seal
from securetrain.secret import Secret
from securetrain.vault.custody import Custodian
from securetrain_operator.adapters.vault import VaultBroker
from securetrain_trainer.keys import grant_request
from support import trainer_kit, vaultkit
from support.gateway_pods import NAMESPACE
from support.gateway_world import World

MODEL_KEK = "team-a-models"


@dataclass(frozen=True)
class Owned:
    """One owner's namespace: KEKs `<name>-digits`, `-other` and `-third`, and the server."""

    kit: vaultkit.Kit
    name: str

    @property
    def mount(self) -> str:
        return self.kit.request.transit_mount

    def kek(self, which: str = "digits") -> str:
        return f"{self.name}-{which}"

    def token(self, *policies: str) -> Secret:
        """A login with some of the policies that setup made, by their first part."""
        names = [f"{policy}-{NAMESPACE}" for policy in policies]
        body = {"policies": names, "no_default_policy": True, "ttl": "10m"}
        with self.kit.admin() as admin:
            made = admin.write("auth/token/create", body).login
        assert made is not None
        return made

    @contextmanager
    def custodian(self, which: str = "digits") -> Iterator[Custodian]:
        """The owner's hand on a KEK."""
        with self.kit.client(self.token("st-owner")) as client:
            yield Custodian(client, self.mount, self.kek(which))

    def seal(self, folder: Path, which: str = "digits", seed: int = 1, **policy: Any) -> Path:
        """Seal a small dataset."""
        rules = rules_of(**policy)
        options = SealOptions(kek=self.kek(which), policy=rules, transit_mount=self.mount)
        with self.custodian(which) as custodian:
            seal(trainer_kit.source(60, seed), folder, options, custodian)
        return folder

    def world(self, folder: Path) -> World:
        """A launched job whose gateway asks this Vault."""
        world = World(vault_connections=(self.kit.connection,))
        token = folder / "operator-token"
        token.write_bytes(self.kit.key.token().reveal())
        world.vault = VaultBroker(token)  # type: ignore[assignment]
        return world


def prepare(openbao: OpenBao, name: str) -> Owned:
    """Vault as `vault setup` makes it for the namespace of `gateway_world`."""
    keks = tuple(f"{name}-{which}" for which in ("digits", "other", "third"))
    return Owned(
        vaultkit.prepare(
            openbao, name, namespace=NAMESPACE, dataset_keks=keks, model_keks=(MODEL_KEK,)
        ),
        name,
    )


def rules_of(**changes: Any) -> bytes:
    """A policy that the job of `gateway_world` fits."""
    return trainer_kit.policy(namespaces=[NAMESPACE], outputKeks=[MODEL_KEK], **changes)


def copy(folder: Path, target: Path) -> Path:
    """A copy of a dataset, as somebody with access to the storage may keep one."""
    return Path(shutil.copytree(folder, target))


def asked(folder: Path, purpose: Purpose = Purpose.TRAIN) -> dict[str, Any]:
    """What an honest pod asks for with the dataset that lies in a folder."""
    run = trainer_kit.run_spec(folder.parent, purpose)
    body = grant_request(run, load_dataset(folder)).to_wire()
    return {key: value for key, value in body.items() if key != "purpose"}
