"""The operator's process makes the webhook's certificates, by these requests to the API server and no others."""

import asyncio
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from datafetch_operator.certificates import read_bundle
from unit.operator.kubeconfig import write_kubeconfig

Json = dict[str, Any]
CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/df"
SECRETS = "/api/v1/namespaces/datafetch-system/secrets"
DATAFETCHES = "/apis/datafetch.io/v1alpha1/datafetches"


class Api:
    """Takes what the keeper writes. To whatever else is asked, which is kopf's, there is no answer."""

    def __init__(self) -> None:
        self.secrets: dict[str, Json] = {"df-ca": {"metadata": {"resourceVersion": "3"}, "type": "Opaque"}}
        self.versions: list[str | None] = []
        self.asked: list[tuple[str, str]] = []
        self.patched = asyncio.Event()
        self.operations: list[Json] = []
        self.content_type = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request, and write it down if it is the keeper's."""
        if request.path == DATAFETCHES:
            return web.json_response({"items": []})
        if not request.path.startswith((SECRETS, CONFIGURATION)):
            await asyncio.Event().wait()
        self.asked.append((request.method, request.path))
        match request.method:
            case "POST" | "PUT":
                secret = await request.json()
                self.versions.append(secret["metadata"].get("resourceVersion"))
                self.secrets[secret["metadata"]["name"]] = secret | {"metadata": {"resourceVersion": "1"}}
                return web.json_response(secret, status=201)
            case "PATCH":
                self.content_type, self.operations = request.content_type, await request.json()
                self.patched.set()
                return web.json_response({})
        if request.path == CONFIGURATION:
            service = {"namespace": "datafetch-system", "name": "df-webhook"}
            webhooks = [{"name": "inject.datafetch.io", "clientConfig": {"service": service}}]
            return web.json_response({"metadata": {"name": "df", "resourceVersion": "7"}, "webhooks": webhooks})
        found = self.secrets.get(request.path.removeprefix(f"{SECRETS}/"))
        return web.json_response(found or {"kind": "Status"}, status=200 if found else 404)


def test_an_empty_ca_is_replaced_the_certificate_made_and_the_bundle_patched(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"

    async def run() -> Api:
        api = Api()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", api.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        write_kubeconfig(kubeconfig, f"http://127.0.0.1:{runner.addresses[0][1]}")
        environ = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(kubeconfig),
            "LOGNAME": "test",
            "DATAFETCH_DOWNLOADER_IMAGE": "example.org/df:1",
            "DATAFETCH_HEALTH_ADDRESS": "127.0.0.1:0",
            "DATAFETCH_WEBHOOK_CONFIGURATION": "df",
            "DATAFETCH_NAMESPACE": "datafetch-system",
            "DATAFETCH_WEBHOOK_SERVICE": "df-webhook",
            "DATAFETCH_WEBHOOK_CA_SECRET": "df-ca",
            "DATAFETCH_WEBHOOK_TLS_SECRET": "df-tls",
        }
        command = [sys.executable, "-m", "datafetch_operator"]
        process = await asyncio.create_subprocess_exec(*command, env=environ, stderr=asyncio.subprocess.DEVNULL)
        try:
            await asyncio.wait_for(api.patched.wait(), 60)
        finally:
            process.kill()
            await process.wait()
            await runner.cleanup()
        return api

    api = asyncio.run(run())
    assert [asked for asked in api.asked if asked[0] != "GET"] == [
        ("PUT", f"{SECRETS}/df-ca"),
        ("POST", SECRETS),
        ("PATCH", CONFIGURATION),
    ]
    assert api.versions == ["3", None]
    assert list(api.secrets) == ["df-ca", "df-tls"]
    assert api.content_type == "application/json-patch+json"
    version, bundle = api.operations
    assert version == {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}
    assert (bundle["op"], bundle["path"]) == ("add", "/webhooks/0/clientConfig/caBundle")
    trusted = base64.b64decode(bundle["value"])
    assert trusted == base64.b64decode(api.secrets["df-ca"]["data"]["ca.crt"])
    assert len(read_bundle(trusted)) == 1
    assert "PRIVATE KEY" not in json.dumps(api.operations)
