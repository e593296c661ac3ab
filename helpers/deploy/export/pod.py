"""What a pod that serves a recipe consists of, for Kubernetes and for KServe alike. Pure."""

from collections.abc import Mapping
from typing import Any

from helpers.deploy.export.facts import MODELS, PORT, assumed, facts, gib, gpu_product
from helpers.deploy.export.subject import Subject

TOKEN = ("huggingface", "token")
"""A secret of the cluster and its key, where the container downloads a gated model."""

_PERIOD = 5  # seconds between two probes


def labels(subject: Subject) -> dict[str, str]:
    """What a service finds its pods by."""
    return {"app.kubernetes.io/name": subject.name}


def container(subject: Subject, name: str) -> dict[str, Any]:
    """The one container: its command, what it may do, and when it is ready."""
    return {
        "name": name,
        "image": subject.image,
        "imagePullPolicy": "IfNotPresent",
        "args": subject.command,
        "env": environment(subject),
        "ports": [{"name": "http1", "containerPort": PORT, "protocol": "TCP"}],
        "resources": resources(subject),
        **probes(subject),
        "securityContext": container_security(),
        "volumeMounts": mounts(subject),
    }


def environment(subject: Subject) -> list[dict[str, Any]]:
    """The server's variables; a token comes from the cluster's secret, never from a file."""
    made: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in subject.environment.items()]
    if subject.needs_token:
        name, key = TOKEN
        made.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}})
    return made


def resources(subject: Subject) -> dict[str, Any]:
    """What a replica takes: its GPUs are its own, and its memory is predicted."""
    asked = {"cpu": assumed("cpus" if subject.on_gpu else "cpus_cpu"), "memory": gib(subject.memory_bytes)}
    if not subject.on_gpu:
        return {"requests": asked}
    return {"requests": asked, "limits": {"nvidia.com/gpu": subject.ranks}}


def probes(subject: Subject) -> dict[str, Any]:
    """Three questions to one route, which answers once the engine can compute.

    The first waits for the engine; only then do the others count. A busy server that answers late is not killed:
    the last one is patient.
    """
    ask = {"httpGet": {"path": "/health", "port": PORT}}
    times = -(-subject.start_seconds // _PERIOD)
    return {
        "startupProbe": {**ask, "periodSeconds": _PERIOD, "timeoutSeconds": 5, "failureThreshold": times},
        "readinessProbe": {**ask, "periodSeconds": _PERIOD, "timeoutSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**ask, "periodSeconds": 20, "timeoutSeconds": 10, "failureThreshold": 6},
    }


def container_security() -> dict[str, Any]:
    """A container that can change nothing but its own volumes."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": facts()["user"]["id"],
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def pod_security() -> dict[str, Any]:
    """The same for all of a pod; the group lets the user write into the pod's own volumes."""
    user = facts()["user"]["id"]
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def mounts(subject: Subject) -> list[dict[str, Any]]:
    """Where the pod's volumes are in the container."""
    made: list[dict[str, Any]] = [
        {"name": "home", "mountPath": facts()["user"]["home"]},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if subject.mounted:
        made.append({"name": "models", "mountPath": MODELS, "readOnly": True})
    if subject.settings:
        folder = subject.settings_path.rpartition("/")[0]
        made.append({"name": "settings", "mountPath": folder, "readOnly": True})
    return made


def volumes(subject: Subject) -> list[dict[str, Any]]:
    """The pod's volumes: two to write into, shared memory, and the engine to read."""
    shared = {"medium": "Memory", "sizeLimit": f"{subject.shared_memory_gib}Gi"}
    made: list[dict[str, Any]] = [
        {"name": "home", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": shared},
    ]
    if subject.mounted:
        claim = {"claimName": claim_name(subject), "readOnly": True}
        made.append({"name": "models", "persistentVolumeClaim": claim})
    if subject.settings:
        made.append({"name": "settings", "configMap": {"name": settings_name(subject)}})
    return made


def node(subject: Subject) -> dict[str, Any]:
    """Which nodes it may run on: those with the GPU that the engine was built on, and those that take GPU work only."""
    if not subject.on_gpu:
        return {}
    return {
        "nodeSelector": {"nvidia.com/gpu.product": gpu_product(subject.recipe.gpu)},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }


# --- What stands beside the pods -----------------------------------------------------


def claim_name(subject: Subject) -> str:
    """The volume with the engine and the tokenizer."""
    return f"{subject.name}-models"


def settings_name(subject: Subject) -> str:
    """The map with the server's file of settings."""
    return f"{subject.name}-settings"


def claim(subject: Subject) -> dict[str, Any]:
    """The volume that every replica reads, with as much again to put a new engine beside the old."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim_name(subject), "labels": labels(subject)},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": gib(2 * subject.engine_bytes + 2**30)}},
        },
    }


def loader(subject: Subject) -> dict[str, Any]:
    """A pod without a GPU through which files are copied onto the volume."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{subject.name}-loader", "labels": {"app.kubernetes.io/component": "loader"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": pod_security(),
            "containers": [
                {
                    "name": "loader",
                    "image": subject.image,
                    "command": ["sleep", "3600"],
                    "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}},
                    "securityContext": container_security(),
                    "volumeMounts": [{"name": "models", "mountPath": MODELS}],
                }
            ],
            "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": claim_name(subject)}}],
        },
    }


def settings_map(subject: Subject) -> dict[str, Any]:
    """What ``trtllm-serve`` reads from a file, as the cluster keeps it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": settings_name(subject), "labels": labels(subject)},
        "data": dict(subject.settings),
    }


def _start(subject: Subject) -> str:
    """What the limit of a start is made of."""
    if not subject.on_gpu:
        beside = "the engine's build for this processor included"
    elif subject.engine_bytes:
        beside = f"{assumed('start_seconds')} s, and the engine's bytes from a slow volume"
    else:
        beside = "without the time to read the engine, whose size is not known here"
    return f"assumed: a start takes {subject.start_seconds} s at most ({beside}). Set it to what you measure."


def why(subject: Subject) -> Mapping[str, str]:
    """What the keys of a pod are there for, as comments."""
    said = {
        "args": "0.0.0.0: a container has an address of its own, and what may reach it is the service's matter."
        if subject.on_gpu
        else "The recipe in the image listens on every address of the container; the service decides what reaches it.",
        "startupProbe": _start(subject),
        "readOnlyRootFilesystem": "It writes into its home, /tmp and /dev/shm only, which are volumes.",
        "memory": "predicted: the engine, a CPU's cache and shared memory; assumed: the server beside them.",
        "medium": "Ranks, and the server's processes, speak through /dev/shm; a container's own has 64 MB.",
    }
    if subject.on_gpu:
        said["nodeSelector"] = (
            "The engine was tuned for this GPU: another generation refuses it, another card has other limits. The "
            "label is that of GPU feature discovery, a part of NVIDIA's GPU operator."
        )
    return said
