"""deploy/kubernetes, applied with kubectl to a real apiserver as the comment at its top says."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import provided
from tests.kit.running import ROOT
from tests.servers import kubernetes as servers
from tests.servers.kubernetes import Kubernetes

FOLDER = ROOT / "deploy/kubernetes"


def rendered(folder: Path = FOLDER) -> dict[str, Any]:
    """All objects, by kind and name."""
    with provided():
        kubectl = servers.binaries() / "kubectl"
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in yaml.safe_load_all(done.stdout)}


async def test_a_cluster_takes_all_of_it_and_twice(kubernetes: Kubernetes) -> None:
    for _ in range(2):
        await kubernetes.kubectl("apply", "--server-side", "-k", str(FOLDER))
    found = await kubernetes.kubectl("-n", "isthmus", "get", "statefulset,service,pdb,networkpolicy", "-o", "name")
    assert set(found.split()) == {
        "statefulset.apps/isthmus",
        "service/isthmus",
        "poddisruptionbudget.policy/isthmus",
        "networkpolicy.networking.k8s.io/isthmus",
    }


async def test_its_account_may_read_and_lock_and_write_nothing_else(kubernetes: Kubernetes) -> None:
    await kubernetes.kubectl("apply", "--server-side", "-k", str(FOLDER))
    who = "--as=system:serviceaccount:isthmus:isthmus"

    async def may(*words: str) -> bool:
        said = await kubernetes.kubectl("auth", "can-i", *words, who, fails=True)
        return said.split()[0] == "yes"

    assert await may("watch", "endpointslices.discovery.k8s.io", "-A")
    assert await may("create", "leases.coordination.k8s.io", "-n", "isthmus")
    assert not await may("create", "leases.coordination.k8s.io", "-n", "default")
    assert not await may("patch", "endpointslices.discovery.k8s.io", "-n", "default")
    assert not await may("get", "secrets", "-n", "isthmus")


def test_a_changed_configuration_rolls_the_pods(tmp_path: Path) -> None:
    for file in FOLDER.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    before = volume(rendered(tmp_path))
    (tmp_path / "isthmus.yaml").write_text((FOLDER / "isthmus.yaml").read_text() + "# changed\n")
    assert before == volume(rendered()) != volume(rendered(tmp_path))


def volume(objects: dict[str, Any]) -> str:
    """The name of the ConfigMap that the pods mount."""
    volumes = objects["StatefulSet/isthmus"]["spec"]["template"]["spec"]["volumes"]
    return str(next(one["configMap"]["name"] for one in volumes if "configMap" in one))


def test_pods_are_two_on_two_nodes_and_hold_no_rights_on_their_host() -> None:
    spec = rendered()["StatefulSet/isthmus"]["spec"]
    pod, (container,) = spec["template"]["spec"], spec["template"]["spec"]["containers"]
    assert spec["replicas"] == 2 and spec["volumeClaimTemplates"]
    assert pod["topologySpreadConstraints"][0]["topologyKey"] == "kubernetes.io/hostname"
    assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_the_file_the_mounts_and_the_image_agree() -> None:
    objects = rendered()
    pod = objects["StatefulSet/isthmus"]["spec"]["template"]["spec"]
    mounts = {one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
    (name,) = [key for key in objects if key.startswith("ConfigMap/")]
    file = yaml.safe_load(objects[name]["data"]["isthmus.yaml"])
    assert file["bridge"]["state"] in mounts
    assert str(Path(file["bridge"]["token_file"]).parent) in mounts
    user = (ROOT / "deploy/container/Containerfile").read_text().partition("USER ")[2].split()[0]
    assert user == "{runAsUser}:{runAsGroup}".format(**pod["securityContext"])
