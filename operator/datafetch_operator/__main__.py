"""The operator's command: `python -m datafetch_operator`, with its settings in the environment.

Two programs in one image: the operator makes Jobs of DataFetch resources, the webhook gives pods that ask by annotation
their data. Each role imports what it needs when it starts, and no more: the webhook knows nothing of kopf.

Exit codes: 0 after SIGTERM or SIGINT, 1 where the cluster cannot be served or leadership was lost, 2 where a setting
cannot be used.
"""

import argparse
import asyncio
import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import aiohttp

from datafetch_api import GROUP
from datafetch_operator import __version__, logs
from datafetch_operator.errors import LeadershipLostError, NotFoundError, OperatorError, SettingsError
from datafetch_operator.settings import Settings, read_settings

if TYPE_CHECKING:
    from datafetch_operator.cluster import Cluster
    from datafetch_operator.lease import Elector
    from datafetch_operator.reconcile import Reconciler

logger = logging.getLogger("datafetch_operator")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until told to stop."""
    role = _ROLES[_parser().parse_args(arguments).role]
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        print(f"datafetch-operator: {error}", file=sys.stderr)
        sys.exit(2)
    logs.configure(settings.log_level, settings.log_format)
    try:
        asyncio.run(role(settings))
    except (OperatorError, aiohttp.ClientError, TimeoutError) as error:
        logger.error("%s", str(error) or type(error).__name__)  # noqa: TRY400 - the sentence says it all
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="datafetch-operator",
        description="Brings data to volumes: Jobs for DataFetch resources, init containers for pods that ask.",
        epilog="Settings are environment variables that begin with DATAFETCH_, each in docs/operator.md; KUBECONFIG "
        "instead of the pod's service account. Exit codes: 0 after SIGTERM or SIGINT, 1 where the cluster cannot be "
        "served, 2 where a setting or an argument cannot be used.",
    )
    parser.add_argument(
        "--role",
        choices=sorted(_ROLES),
        default="operator",
        help="operator (default): reconcile DataFetch resources and keep the webhook's certificates; "
        "webhook: answer the API server about pods with annotations under datafetch.io/",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


async def _run_operator(settings: Settings) -> None:
    """Check that the cluster can be served, stand by while another leads, then reconcile until a signal comes."""
    from datafetch_operator.cluster import connect
    from datafetch_operator.lease import Elector, new_identity
    from datafetch_operator.probes import serve_probes
    from datafetch_operator.reconcile import Reconciler

    # Before it leads: a takeover is not to wait for imports.
    importlib.import_module("datafetch_operator.handlers")
    stands_by, watches, stopping = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with connect() as cluster:
        for namespace in settings.watch_namespaces or (None,):
            await _check_served(cluster, namespace)
        logger.info("datafetch-operator %s serves %s", __version__, _scope(settings))
        reconciler, election = Reconciler(cluster, settings), settings.election
        probes = serve_probes(
            settings.health_host,
            settings.health_port,
            reconciler.longest_work,
            lambda: stands_by.is_set() or watches.is_set(),
        )
        async with probes:
            if election is None:
                await _reconcile(cluster, reconciler, settings, watches)
                return
            elector = Elector(cluster, election.namespace, election.lease, new_identity(election.pod))
            cluster.write_only_while(elector.holds)
            try:
                stands_by.set()
                if await _leads(elector, stopping):
                    stands_by.clear()
                    await _reconcile(cluster, reconciler, settings, watches, elector)
            finally:
                await elector.release()


async def _leads(elector: "Elector", stopping: asyncio.Event) -> bool:
    """Stand by until this replica leads; return False where a signal came first."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    waits = (asyncio.create_task(elector.acquire()), asyncio.create_task(stopping.wait()))
    try:
        ended, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            await task
        return not stopping.is_set()
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _reconcile(
    cluster: "Cluster",
    reconciler: "Reconciler",
    settings: Settings,
    watches: asyncio.Event,
    elector: "Elector | None" = None,
) -> None:
    """Watch and reconcile until a signal comes. Raises LeadershipLostError where another one may do so now."""
    import kopf

    from datafetch_operator.handlers import operator_settings, register

    try:
        async with asyncio.TaskGroup() as tasks:
            keeping = [tasks.create_task(elector.keep(), name="lease")] if elector else []
            work = [
                tasks.create_task(reconciler.run(), name="reconciler"),
                *_keep_certificates(tasks, cluster, settings),
            ]
            await asyncio.sleep(0)  # kopf cancels at its end what was started after it: not the workers.
            await kopf.operator(
                registry=register(reconciler),
                settings=operator_settings(),
                standalone=True,
                clusterwide=not settings.watch_namespaces,
                namespaces=settings.watch_namespaces,
                ready_flag=watches,
            )
            for task in work:
                task.cancel()
            await asyncio.wait(work)  # What they write to the end, they write as the leader.
            for task in keeping:
                task.cancel()
    except BaseExceptionGroup as group:
        lost = group.subgroup(LeadershipLostError)
        if lost is None:
            raise
        raise _first(lost) from None


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _keep_certificates(tasks: asyncio.TaskGroup, cluster: "Cluster", settings: Settings) -> list[asyncio.Task[None]]:
    if settings.certificates is None:
        return []
    from datafetch_operator.certificate_keeper import CertificateKeeper

    return [tasks.create_task(CertificateKeeper(cluster, settings.certificates).run(), name="certificates")]


async def _run_webhook(settings: Settings) -> None:
    """Answer the API server until a signal comes, and then until nobody asks any more."""
    from datafetch_operator import admission, webhook
    from datafetch_operator.cluster import connect
    from datafetch_operator.probes import serve_probes

    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    certificate = webhook.ServingCertificate(settings.webhook.certificates)
    async with connect() as cluster:
        probes = serve_probes(
            settings.health_host,
            settings.health_port,
            lambda: 0.0,  # Every answer has its deadline: there is nothing that could be stuck for minutes.
            lambda: certificate.is_loaded and not stopping.is_set(),
        )
        server = webhook.serve(
            settings.webhook.host,
            settings.webhook.port,
            certificate,
            lambda review: admission.answer(review, cluster, settings),
            is_stopping=stopping.is_set,
        )
        async with probes, server:
            # What was imported stays: else a full collection goes through all of it (85 ms) between two answers.
            gc.freeze()
            logger.info("datafetch-operator %s answers on port %d", __version__, settings.webhook.port)
            await webhook.run_until(stopping)


_ROLES: dict[str, Callable[[Settings], Coroutine[Any, Any, None]]] = {
    "operator": _run_operator,
    "webhook": _run_webhook,
}


async def _check_served(cluster: "Cluster", namespace: str | None) -> None:
    try:
        await cluster.check_served(namespace)
    except NotFoundError as error:
        raise OperatorError(f"this cluster serves no {GROUP} resources; install the CRD ({error})") from error


def _scope(settings: Settings) -> str:
    return f"namespaces {', '.join(settings.watch_namespaces)}" if settings.watch_namespaces else "all namespaces"


if __name__ == "__main__":
    main()
