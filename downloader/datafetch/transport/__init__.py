"""The data plane of every HTTP provider: ranges of objects straight into the caller's buffer.

    client      requests, redirects, what an answer must say, errors in our words
    refusals    what a refusal's status means
    pool        connections kept alive, proxies, TLS
    connection  one HTTP/1.1 connection
    tls         encryption below it

Providers' SDKs list and sign; only bytes go over here.
"""

from datafetch.transport.client import Answer, Pin, RangeBody, Request, Transport
from datafetch.transport.refusals import Refusal, classify

__all__ = ["Answer", "Pin", "RangeBody", "Refusal", "Request", "Transport", "classify"]
