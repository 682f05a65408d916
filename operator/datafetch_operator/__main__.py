"""The operator's command: `python -m datafetch_operator`, with its settings in the environment.

Exit codes: 0 after SIGTERM or SIGINT, 1 where the cluster cannot be served, 2 where a setting cannot be used.
"""

import asyncio
import logging
import os
import sys

import aiohttp
import kopf

from datafetch_api import GROUP
from datafetch_operator import __version__, logs
from datafetch_operator.cluster import Cluster, connect
from datafetch_operator.errors import NotFoundError, OperatorError, SettingsError
from datafetch_operator.handlers import operator_settings, register
from datafetch_operator.probes import serve_probes
from datafetch_operator.reconcile import Reconciler
from datafetch_operator.settings import Settings, read_settings

logger = logging.getLogger("datafetch_operator")


def main() -> None:
    """Run until told to stop."""
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        print(f"datafetch-operator: {error}", file=sys.stderr)
        sys.exit(2)
    logs.configure(settings.log_level, settings.log_format)
    try:
        asyncio.run(_run(settings))
    except (OperatorError, aiohttp.ClientError, TimeoutError) as error:
        logger.error("%s", str(error) or type(error).__name__)  # noqa: TRY400 - the sentence says it all
        sys.exit(1)


async def _run(settings: Settings) -> None:
    """Check that the cluster can be served, then watch and reconcile until a signal comes."""
    ready = asyncio.Event()
    async with connect() as cluster:
        for namespace in settings.watch_namespaces or (None,):
            await _check_served(cluster, namespace)
        logger.info("datafetch-operator %s serves %s", __version__, _scope(settings))
        reconciler = Reconciler(cluster, settings)
        probes = serve_probes(settings.health_host, settings.health_port, reconciler.longest_work, ready.is_set)
        async with probes, asyncio.TaskGroup() as tasks:
            work = tasks.create_task(reconciler.run(), name="reconciler")
            await asyncio.sleep(0)  # kopf cancels at its end what was started after it: not the workers.
            await kopf.operator(
                registry=register(reconciler),
                settings=operator_settings(),
                standalone=True,
                clusterwide=not settings.watch_namespaces,
                namespaces=settings.watch_namespaces,
                ready_flag=ready,
            )
            work.cancel()


async def _check_served(cluster: Cluster, namespace: str | None) -> None:
    try:
        await cluster.check_served(namespace)
    except NotFoundError as error:
        raise OperatorError(f"this cluster serves no {GROUP} resources; install the CRD ({error})") from error


def _scope(settings: Settings) -> str:
    return f"namespaces {', '.join(settings.watch_namespaces)}" if settings.watch_namespaces else "all namespaces"


if __name__ == "__main__":
    main()
