"""What CRI asks, as what the runtime takes: pure functions, golden-tested.

    facts.gather(...)      the only I/O: the node's paths and devices; runs in a worker
    container.spec(...)    ContainerConfig + image + sandbox + facts -> runtime.spec.Spec
    sandbox.request(...)   PodSandboxConfig -> SandboxRequest
    sandbox.files(...)     PodSandboxConfig -> hosts, hostname, resolv.conf

Whatever a request can have wrong by itself is found here, as InvalidRequest that names the field.
"""
