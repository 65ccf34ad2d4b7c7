"""Why `podwright run` does nothing with a field that Kubernetes knows."""

from __future__ import annotations

import re
from collections.abc import Mapping

KUBELET = "kubelet does this; podwright run starts the pod once and leaves it"
SCHEDULER = "there is no scheduler here"
CLUSTER = "there is no API server here"
LIMIT = "nothing limits it outside a cluster"

REASONS: Mapping[str, str] = {
    "restartPolicy": "kubelet restarts containers, podwright run does not",
    "livenessProbe": KUBELET,
    "readinessProbe": KUBELET,
    "startupProbe": KUBELET,
    "lifecycle": KUBELET,
    "postStart": KUBELET,
    "preStop": KUBELET,
    "activeDeadlineSeconds": KUBELET,
    "terminationMessagePath": KUBELET,
    "terminationMessagePolicy": KUBELET,
    "nodeSelector": SCHEDULER,
    "affinity": SCHEDULER,
    "tolerations": SCHEDULER,
    "topologySpreadConstraints": SCHEDULER,
    "schedulerName": SCHEDULER,
    "priority": SCHEDULER,
    "priorityClassName": SCHEDULER,
    "preemptionPolicy": SCHEDULER,
    "nodeName": SCHEDULER,
    "serviceAccountName": CLUSTER,
    "serviceAccount": CLUSTER,
    "automountServiceAccountToken": CLUSTER,
    "imagePullSecrets": "credentials come from the configuration of the daemon",
    "enableServiceLinks": CLUSTER,
    "envFrom": CLUSTER,
    "configMapKeyRef": CLUSTER,
    "secretKeyRef": CLUSTER,
    "resourceFieldRef": CLUSTER,
    "configMap": "there is no API server here: the volume is an empty directory",
    "secret": "there is no API server here: the volume is an empty directory",
    "projected": "there is no API server here: the volume is an empty directory",
    "downwardAPI": "there is no API server here: the volume is an empty directory",
    "status": "it is an answer of the API server, not a wish",
    "sizeLimit": LIMIT,
    "overhead": "it is for the scheduler and kubelet's pod cgroup",
    "subdomain": "there is no cluster DNS here",
    "setHostnameAsFQDN": "there is no cluster DNS here",
}


def reason(path: str) -> str:
    """One clause for the field at `path` (`spec.containers[0].livenessProbe`)."""
    last = re.split(r"[.\[]", re.sub(r"\[\d+\]$", "", path))[-1]
    return REASONS.get(last, "podwright run does not use it")
