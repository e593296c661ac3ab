"""A Deployment, its Service and an autoscaler on requests in flight (notebook 09). Pure.

Kubernetes' own autoscaler sees CPU and memory, which say nothing of an engine: it is busy with one request as with a
full batch. It does not go to zero either. KEDA's HTTP add-on does both, and is what the third file is for.
"""

import math
from typing import Any

from helpers.deploy.export import pod
from helpers.deploy.export.facts import PORT, assumed, facts, to_yaml
from helpers.deploy.export.subject import File, Subject

FOLDER = "kubernetes"
ABOUT = "a Deployment, its Service, and an autoscaler on requests in flight (KEDA)"
_ASK = (
    "# Through the interceptor, which counts the request and waits for a replica:",
    "kubectl -n keda port-forward service/keda-add-ons-http-interceptor-proxy 8080:8080 &",
)


def refusal(subject: Subject) -> str:
    """Why there is none; there always is."""
    return ""


def files(subject: Subject) -> dict[str, File]:
    """The files, in the order in which they are applied."""
    made = {}
    if subject.mounted:
        made[f"{FOLDER}/volume.yaml"] = File(volume(subject), "where the engine is kept, and a pod to put it there")
    made[f"{FOLDER}/deployment.yaml"] = File(deployment(subject), "the pods that serve it")
    made[f"{FOLDER}/service.yaml"] = File(service(subject), "one address for all of them, within the cluster")
    made[f"{FOLDER}/autoscaler.yaml"] = File(autoscaler(subject), "adds and ends pods as requests come (KEDA)")
    return made


def volume(subject: Subject) -> str:
    """The claim and the pod that fills it."""
    header = [
        f"Where the engine of {subject.recipe.name} and its tokenizer are kept. Several nodes read it: your storage "
        "class has to offer ReadWriteMany.",
        "The pod is for copying files onto it (README.md); delete it afterwards.",
    ]
    return to_yaml(pod.claim(subject), pod.loader(subject), header=header)


def deployment(subject: Subject) -> str:
    """The Deployment, and the server's settings where it needs a file of them."""
    spec = {
        "terminationGracePeriodSeconds": subject.end_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod.pod_security(),
        **pod.node(subject),
        "containers": [
            {
                **pod.container(subject, "server"),
                "lifecycle": {"preStop": {"sleep": {"seconds": assumed("leave_seconds")}}},
            }
        ],
        "volumes": pod.volumes(subject),
    }
    document = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": subject.name, "labels": pod.labels(subject)},
        "spec": {
            "selector": {"matchLabels": pod.labels(subject)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": _update(subject)},
            "progressDeadlineSeconds": max(600, subject.start_seconds + 60),
            "template": {"metadata": {"labels": pod.labels(subject)}, "spec": spec},
        },
    }
    documents = [pod.settings_map(subject)] if subject.settings else []
    header = [
        f"Serves the recipe {subject.recipe.name}. No number of replicas: the autoscaler decides it; without it "
        "there is 1."
    ]
    return to_yaml(*documents, document, header=header, why=_why(subject))


def _update(subject: Subject) -> dict[str, int]:
    """How a new version replaces an old one."""
    if subject.on_gpu and subject.scaling.min_replicas > 1:
        return {"maxSurge": 0, "maxUnavailable": 1}
    return {"maxSurge": 1, "maxUnavailable": 0}


def _why(subject: Subject) -> dict[str, str]:
    """The comments of the Deployment."""
    if _update(subject)["maxSurge"] == 0:
        update = "One replica ends before its successor starts: the others answer, and no spare GPU is needed."
    elif subject.on_gpu:
        update = "The successor starts first, so that somebody always answers: that takes a spare GPU for a while."
    else:
        update = "The successor starts first, so that somebody always answers."
    return {
        **pod.why(subject),
        "rollingUpdate": update,
        "terminationGracePeriodSeconds": (
            f"assumed: the longest answer takes {subject.answer_seconds} s "
            f"({subject.recipe.max_output_len:,} tokens at {assumed('slowest_tokens_per_second')} a second); a stream "
            "is not cut while it lasts."
        ),
        "preStop": "Proxies learn that this pod ends while it still answers; only then is the server told to end. "
        "(Kubernetes 1.30 or newer.)",
    }


def service(subject: Subject) -> str:
    """The Service."""
    document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": subject.name, "labels": pod.labels(subject)},
        "spec": {
            "type": "ClusterIP",
            "selector": pod.labels(subject),
            "ports": [{"name": "http1", "port": 80, "targetPort": PORT, "protocol": "TCP"}],
        },
    }
    header = ["Within the cluster only: the API asks for no key. Put a gateway that does in front of it."]
    return to_yaml(document, header=header)


def autoscaler(subject: Subject) -> str:
    """KEDA's two resources: what is counted, and what follows."""
    known = facts()["keda"]
    header = [
        f"Needs KEDA and its HTTP add-on, {known['add_on']} or newer. Requests go through the add-on's interceptor, "
        f"with the header Host: {subject.name}; it counts them, and holds them while no replica is ready.",
        "A plain HorizontalPodAutoscaler needs a metrics adapter to see requests in flight, and keeps one replica.",
    ]
    return to_yaml(_route(subject), _scaled(subject, str(known["scaler"])), header=header, why=_scaling_why(subject))


def _route(subject: Subject) -> dict[str, Any]:
    """What the interceptor passes on, and what it counts."""
    return {
        "apiVersion": "http.keda.sh/v1beta1",
        "kind": "InterceptorRoute",
        "metadata": {"name": subject.name},
        "spec": {
            "target": {"service": subject.name, "port": 80},
            "rules": [{"hosts": [subject.name]}],
            "scalingMetric": {"concurrency": {"targetValue": subject.target}},
            "timeouts": {"readiness": f"{subject.start_seconds}s", "request": "0s", "responseHeader": "0s"},
        },
    }


def _scaled(subject: Subject, scaler: str) -> dict[str, Any]:
    """How many replicas follow from what is counted."""
    scaling = subject.scaling
    up, down = (min(math.ceil(delay), 3600) for delay in (scaling.upscale_delay, scaling.downscale_delay))
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": subject.name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": subject.name},
            "minReplicaCount": scaling.min_replicas,
            "maxReplicaCount": scaling.max_replicas,
            "pollingInterval": max(1, math.ceil(scaling.interval)),
            "cooldownPeriod": math.ceil(scaling.last_delay),
            "advanced": {
                "horizontalPodAutoscalerConfig": {
                    "behavior": {
                        "scaleUp": {"stabilizationWindowSeconds": up},
                        "scaleDown": {"stabilizationWindowSeconds": down},
                    }
                }
            },
            "triggers": [
                {
                    "type": "external-push",
                    "metadata": {"scalerAddress": scaler, "interceptorRoute": subject.name},
                }
            ],
        },
    }


def _scaling_why(subject: Subject) -> dict[str, str]:
    """The comments of the autoscaler."""
    scaling = subject.scaling
    whole = "" if subject.target == scaling.target_ongoing else f" ({scaling.target_ongoing:g}, as a whole number)"
    return {
        "concurrency": f"Requests in flight for each replica{whole}; the engine runs {subject.recipe.max_batch_size}.",
        "readiness": "A request that finds no replica waits as long as a start may take; streams end by themselves.",
        "minReplicaCount": "The Deployment may end its last replica: the next request pays a cold start."
        if scaling.min_replicas == 0
        else "These stay without any load: no request waits for a cold start while they are enough.",
        "cooldownPeriod": "Seconds without a request before the last replica ends.",
    }


def steps(subject: Subject) -> list[str]:
    """How it is applied, for the README."""
    made = []
    if subject.needs_token:
        name, key = pod.TOKEN
        made.append(f'kubectl create secret generic {name} --from-literal={key}="$HF_TOKEN"')
    if subject.mounted:
        made += fill_volume(subject, FOLDER)
    files = " -f ".join(f"{FOLDER}/{name}.yaml" for name in ("deployment", "service", "autoscaler"))
    made.append(f"kubectl apply -f {files}\nkubectl rollout status deployment/{subject.name}")
    return [*made, "\n".join([*_ASK, f'curl -H "Host: {subject.name}" http://127.0.0.1:8080/v1/models'])]


def fill_volume(subject: Subject, folder: str) -> list[str]:
    """How the engine and the tokenizer are put onto the volume."""
    loader = f"{subject.name}-loader"
    return [
        f"kubectl apply -f {folder}/volume.yaml\n"
        f"kubectl wait --for=condition=Ready pod/{loader} --timeout=600s\n"
        f'kubectl cp "$MODELS/{subject.name}" {loader}:/models/{subject.name}\n'
        f'kubectl cp "$MODELS/tokenizer" {loader}:/models/tokenizer\n'
        f"kubectl delete pod {loader}"
    ]


def untried(subject: Subject) -> str:
    """What was not tried of it."""
    return (
        f"Kubernetes: Deployment, Service and volume fit the schemas of {facts()['kubernetes']['version']}; KEDA's two "
        "resources have fields of its definitions alone. None was applied to a cluster."
        + (
            " Whether trtllm-serve runs on a file system that it cannot write to, and ends its streams when it is told "
            "to end, was not seen."
            if subject.on_gpu
            else ""
        )
    )
