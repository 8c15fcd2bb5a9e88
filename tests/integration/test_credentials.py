"""A model does not find the credentials of the service in what its process was given."""

from __future__ import annotations

import base64
import json

from tests.deployment import Deployment

SECRET = "whsec_" + base64.b64encode(b"a secret of webhooks, 32 bytes..").decode()
MODELS = """
    import os, select, socket
    from pathlib import Path
    from service import model

    def given():
        heard = []
        for name in os.listdir("/proc/self/fd"):
            number = int(name)
            if number > 2 and os.path.exists(f"/proc/self/fd/{name}") and select.select([number], [], [], 0)[0]:
                try:
                    with socket.socket(fileno=os.dup(number)) as link:
                        heard.append(link.recv(100_000, socket.MSG_PEEK | socket.MSG_DONTWAIT).decode())
                except OSError:
                    pass
        return {
            "environ": dict(os.environ),
            "proc": Path("/proc/self/environ").read_text(),
            "arguments": Path("/proc/self/cmdline").read_text(),
            "shell": os.popen("env").read(),
            "heard": heard,
        }

    at_import = given()

    @model
    def sees() -> list[dict]:
        return [at_import, given()]
"""


def test_a_model_finds_no_credential_in_its_environment_arguments_or_descriptors(deployed: Deployment) -> None:
    deployed.write(MODELS)
    deployed.worker(WEBHOOK_SECRET=SECRET, OWN_SETTING="of the model", redis_url=deployed.redis_url)
    api = deployed.web()

    output = api.submit("sees", wait=20)["output"]

    seen = json.dumps(output)
    for secret in (SECRET, SECRET.removeprefix("whsec_"), deployed.redis_url, "WEBHOOK_SECRET", "REDIS_URL"):
        assert secret.upper() not in seen.upper()
    assert output[1]["environ"]["OWN_SETTING"] == "of the model"
