"""Servers for the tests, on real sockets of this machine, with the standard library alone.

| module | what it serves |
|---|---|
| `http` | static files over HTTP/1.1, with every way a web server may differ or fail |
| `hub` | the endpoints of the Hugging Face Hub that huggingface_hub calls, and a CDN beside it |
| `faults` | a reverse proxy that slows, cuts and refuses in front of any other server |
| `throttle` | such a proxy that bears only so many requests at a time, and keeps what was open and sent when |
| `drip` | static files, a byte now and then |
| `emulators` | versitygw (S3), fake-gcs-server and azurite as context managers |

`serving` is the HTTP machinery under the first three, `plans` says what goes wrong when, `traffic` what was seen.
"""
