"""The operator's metrics, as Prometheus scrapes them. Defined here, once; counted where things happen."""

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call] # prometheus-client does not annotate it

RECONCILES = Counter("datafetch_reconciles_total", "Reconciles, by what and how they ended.", ["kind", "result"])
"""Of a `datafetch` or a `pod` that asks for data: `ok`, `conflict` (somebody else wrote first), `gone` or `error`."""
RECONCILE_SECONDS = Histogram(
    "datafetch_reconcile_seconds",
    "Time that one reconcile took.",
    ["kind"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
QUEUE_LENGTH = Gauge("datafetch_queue_length", "What waits to be reconciled.", ["kind"])
FETCHES = Gauge("datafetch_fetches", "DataFetch resources, by phase.", ["phase"])
DOWNLOADS = Gauge(
    "datafetch_downloads", "Where downloads are limited: those under way, and those that wait.", ["state"]
)
"""`active` or `queued`."""
FETCHED_BYTES = Counter("datafetch_fetched_bytes_total", "Bytes brought by fetches that completed.")
DRIFT_CHECKS = Counter("datafetch_drift_checks_total", "Looks at sources for changes, by what they found.", ["result"])
"""`unchanged`, `changed`, or `failed`: it could not look."""
FAILURES = Counter("datafetch_failures_total", "Fetches that failed for good, by reason.", ["reason"])
CONSUMERS = Gauge("datafetch_consumers", "Unfinished pods that ask for data, by what became of that.", ["phase"])
GATES_REMOVED = Counter("datafetch_gates_removed_total", "Scheduling gates taken from pods whose data was there.")
CONSUMER_BYTES = Counter(
    "datafetch_consumer_fetched_bytes_total", "Bytes brought by the init containers of pods that ask for data."
)
CONSUMER_FAILURES = Counter(
    "datafetch_consumer_failures_total",
    "Ends of those init containers that were told as an event, by reason.",
    ["reason"],
)
STATUS_WRITES = Counter("datafetch_status_writes_total", "Writes of a status.")
API_REQUESTS = Counter("datafetch_api_requests_total", "Requests to the Kubernetes API.", ["verb", "code"])
ADMISSIONS = Counter("datafetch_admissions_total", "Pods that the webhook was asked about.", ["result"])
"""`injected`, `unchanged`, `refused`, or `failed`: no answer could be found, through no fault of the pod's."""
ADMISSION_SECONDS = Histogram(
    "datafetch_admission_seconds",
    "Time that one answer of the webhook took.",
    buckets=(0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.3, 1, 3),
)
