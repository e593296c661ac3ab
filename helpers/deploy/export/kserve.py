"""An InferenceService with a container of one's own, scaled on requests in flight, to zero (notebook 09). Pure."""

import math
from typing import Any

from helpers.deploy.export import kubernetes, pod
from helpers.deploy.export.facts import facts, to_yaml
from helpers.deploy.export.subject import File, Subject

FOLDER = "kserve"
ABOUT = "an InferenceService for KServe, scaled on requests in flight"


def refusal(subject: Subject) -> str:
    """Why there is none; there always is."""
    return ""


def files(subject: Subject) -> dict[str, File]:
    """The InferenceService, and the volume that it reads."""
    made = {}
    if subject.mounted:
        made[f"{FOLDER}/volume.yaml"] = File(
            kubernetes.volume(subject), "where the engine is kept, and a pod to put it there"
        )
    if subject.settings:
        text = to_yaml(pod.settings_map(subject), header=["What the server reads from a file."])
        made[f"{FOLDER}/settings.yaml"] = File(text, "the server's file of settings")
    made[f"{FOLDER}/inference_service.yaml"] = File(service(subject), "the InferenceService")
    return made


def service(subject: Subject) -> str:
    """The InferenceService."""
    known, scaling = facts()["kserve"], subject.scaling
    predictor: dict[str, Any] = {
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "scaleMetric": "concurrency",
        "scaleTarget": subject.target,
        "containerConcurrency": subject.batch,
        "timeout": subject.start_seconds + subject.answer_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _security(),
        **pod.node(subject),
        "containers": [pod.container(subject, known["container"])],
        "volumes": pod.volumes(subject),
    }
    document = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": subject.name, "labels": pod.labels(subject), "annotations": _annotations(subject)},
        "spec": {"predictor": predictor},
    }
    header = [
        f"Serves the recipe {subject.recipe.name} through KServe, in its mode with Knative: it alone goes to zero.",
        "Knative has to allow " + ", ".join(_flags(subject)) + " (config-features in the namespace knative-serving).",
    ]
    return to_yaml(document, header=header, why=_why(subject))


def _security() -> dict[str, Any]:
    """What a pod may do, in the fields that Knative takes: it refuses a pod with any other."""
    taken = facts()["kserve"]["security_fields"]
    return {name: value for name, value in pod.pod_security().items() if name in taken}


def _flags(subject: Subject) -> list[str]:
    """What Knative has to allow for this pod."""
    known = facts()["kserve"]
    gpu = known["flags_gpu"] if subject.on_gpu else []
    return [*known["flags"], *gpu, *(known["flags_mounted"] if subject.mounted else [])]


def _annotations(subject: Subject) -> dict[str, str]:
    """What Knative's autoscaler is told; it takes no field for it."""
    known, scaling = facts()["kserve"], subject.scaling
    most = known["window_most"]
    window = min(max(math.ceil(scaling.look_back), known["window_least"]), most)
    return {
        "serving.kserve.io/deploymentMode": known["mode"],
        "autoscaling.knative.dev/window": f"{window}s",
        "autoscaling.knative.dev/scale-down-delay": f"{min(math.ceil(scaling.downscale_delay), most)}s",
        "autoscaling.knative.dev/scale-to-zero-pod-retention-period": f"{min(math.ceil(scaling.last_delay), most)}s",
        "serving.knative.dev/progress-deadline": f"{max(600, subject.start_seconds + 60)}s",
    }


def _why(subject: Subject) -> dict[str, str]:
    """The comments."""
    known, scaling = facts()["kserve"], subject.scaling
    said = {**pod.why(subject)}
    said["minReplicas"] = (
        "The last replica may end: the next request pays a cold start."
        if scaling.min_replicas == 0
        else "These stay without any load."
    )
    whole = "" if subject.target == scaling.target_ongoing else f" ({scaling.target_ongoing:g}, as a whole number)"
    said["scaleTarget"] = f"Requests in flight for each replica that the autoscaler aims at{whole}."
    said["containerConcurrency"] = "Requests that a replica takes at once; more wait in front of the replicas."
    longer = subject.start_seconds + subject.answer_seconds > known["timeout_most"]
    limit = f" Knative allows {known['timeout_most']} unless config-defaults says more." if longer else ""
    said["timeout"] = f"Seconds of a request: a cold start and the longest answer.{limit}"
    said["serving.knative.dev/progress-deadline"] = "A start that takes longer is given up."
    return said


def steps(subject: Subject) -> list[str]:
    """How it is applied, for the README."""
    made = kubernetes.fill_volume(subject, FOLDER) if subject.mounted else []
    names = [*(["settings"] if subject.settings else []), "inference_service"]
    if subject.needs_token:
        name, key = pod.TOKEN
        made = [*made, f'kubectl create secret generic {name} --from-literal={key}="$HF_TOKEN"']
    applied = f"kubectl apply -f {' -f '.join(f'{FOLDER}/{name}.yaml' for name in names)}"
    limit = max(900, subject.start_seconds + 60)
    return [*made, f"{applied}\nkubectl wait --for=condition=Ready inferenceservice/{subject.name} --timeout={limit}s"]


def untried(subject: Subject) -> str:
    """What was not tried of it."""
    flags = ", ".join(_flags(subject))
    return (
        "KServe: the InferenceService fits the models of the kserve package, and its pod Kubernetes' schemas. It was "
        f"applied to no cluster; Knative has to allow {flags}."
    )
