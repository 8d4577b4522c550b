"""`make soak`: many jobs on a real API server and a real Vault, in a world that keeps failing.

Two phases. In the storm the operator is killed every few seconds while proxies spoil what it, and
the pods, ask of API server, Vault and gateway. In the calm that follows it lives on, so that what
grows in it can be seen. At the end each job must have run once and ended as it should, with its
audit chain whole and in agreement with Vault's own log, and nothing may be left behind.

The seed decides which faults come, but not exactly when: threads and processes do.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from localcluster.control_plane import ControlPlane
from localcluster.openbao import OpenBao
from soak import growth, load, weather
from soak.supervisor import Supervisor, say
from support import faulty
from support.stage import Stage

TEAM = "soak"
RESULTS = Path("build/soak/results.json")


def main() -> int:
    """Run it; 1 if anything is wrong."""
    options = argparse.ArgumentParser(prog="soak", description=__doc__)
    options.add_argument("--jobs", type=int, default=200, help="in all; default: %(default)s")
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options.add_argument("--kill-seconds", type=float, default=15.0)
    options.add_argument("--parallel", type=int, default=8, help="jobs under way at a time")
    options.add_argument("--output", type=Path, default=RESULTS)
    chosen = options.parse_args()
    say(f"seed {chosen.seed}: the same again by --seed {chosen.seed}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all it started ends with it
    began = time.monotonic()
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    pods = chosen.output.with_suffix(".pods.log")
    with tempfile.TemporaryDirectory(prefix="securetrain-soak-") as folder, pods.open("w") as said:
        with redirect_stdout(said):  # where the pods' trainers write
            results = _run(Path(folder), chosen)
        shutil.copy(Path(folder) / "stage" / "stderr", chosen.output.with_suffix(".operator.log"))
    results["seconds"] = round(time.monotonic() - began)
    chosen.output.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps({key: value for key, value in results.items() if key != "samples"}, indent=1))
    return 1 if results["wrong"] else 0


def _run(folder: Path, chosen: argparse.Namespace) -> dict[str, object]:
    control_plane = ControlPlane(folder / "control-plane", die_with_parent=True)
    openbao = OpenBao(folder / "openbao", die_with_parent=True)
    try:
        control_plane.start()
        openbao.start()
        stage_folder = folder / "stage"
        stage_folder.mkdir()
        with (
            faulty.opened(control_plane, openbao, stage_folder, TEAM) as (stage, ways),
            faulty.before_the_gateway(stage, stage_folder, stage.operator) as gateway,
        ):
            stage.player.gateway_port = lambda _: gateway.port
            sky = weather.Weather(stage, ways, gateway, chosen.seed)
            return _phases(stage, sky, chosen)
    finally:
        openbao.stop()
        control_plane.stop()


def _phases(stage: Stage, sky: weather.Weather, chosen: argparse.Namespace) -> dict[str, object]:
    jobs = load.plan(chosen.jobs)
    stormy = jobs[: len(jobs) * 3 // 4]
    baseline = growth.vault_tokens(stage)
    supervisor = Supervisor(stage.operator)
    with supervisor:
        with sky.storm(), supervisor.killing(chosen.kill_seconds):
            wrong = load.run(stage, stormy, chosen.parallel)
        wrong += load.check(stage, stormy, supervisor.deaths + sky.spoilt)
        wrong += growth.cleared(stage, load.remove(stage, stormy))
        say(f"calm after {supervisor.deaths} kills and {sky.spoilt} faults")
        calm = jobs[len(stormy) :]
        supervisor.samples.clear()
        wrong += load.run(stage, calm, chosen.parallel)
        wrong += load.check(stage, calm, supervisor.deaths + sky.spoilt)
        wrong += growth.cleared(stage, load.remove(stage, calm))
        wrong += growth.at_rest(sky.ways.api)
    wrong += growth.of_process(supervisor.samples)
    wrong += growth.of_vault(stage, baseline)
    if supervisor.restarts > supervisor.deaths // 4:
        wrong.append(f"the operator ended by itself {supervisor.restarts} times")
    wrong += supervisor.wrong + growth.unforeseen(stage.operator)
    return {
        "seed": chosen.seed,
        "jobs": len(jobs),
        "kills": supervisor.deaths,
        "restarts": supervisor.restarts,
        "faults": sky.counts(),
        "residentMiB": growth.residents(supervisor.samples),
        "samples": supervisor.samples,
        "wrong": wrong,
    }


if __name__ == "__main__":
    sys.exit(main())
