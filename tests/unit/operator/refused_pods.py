"""Pods that are refused, each with words of the sentence that says why."""

from unit.operator.asking import Json, Known, claim, pod, recipe, target

SHARED = Known({"tinyllama": target()}, {"data": claim()})
ONE_NODE = Known({"tinyllama": target()}, {"data": claim("data", "ReadWriteOnce")})
RECIPES = Known({"tinyllama": recipe(), "corpus": recipe("corpus")})
READ_ONLY = Known({}, {"ro": claim("ro", "ReadOnlyMany")})
NOTHING = Known()
HF = "hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0"
ITEM = "type: hf, name: x, repo_id: a/b"
MANAGED = "managed: {volume: /v, path: p, namespace: n, name: n, uid: u, spec_hash: h}"
WINDOWS = {"os": {"name": "windows"}}
CLAIM_READ_ONLY = {"name": "v", "persistentVolumeClaim": {"claimName": "c", "readOnly": True}}
APP_AT_DATA = [{"name": "app", "image": "a", "volumeMounts": [{"name": "v", "mountPath": "/data/", "readOnly": True}]}]
APP_BELOW = [{"name": "app", "image": "a", "volumeMounts": [{"name": "v", "mountPath": "/data/cache"}]}]
REFUSALS: list[tuple[str, Json, Known, str]] = [
    (
        "unknown fetch",
        pod({"fetch": "tinylama"}),
        SHARED,
        "no DataFetch 'tinylama' in namespace 'team'; did you mean 'tinyllama'",
    ),
    ("nothing near", pod({"fetch": "zzz"}), SHARED, "there are 'tinyllama'"),
    ("none at all", pod({"fetch": "zzz"}), NOTHING, "'team' has none, so create it first"),
    ("other namespace", pod({"fetch": "prod/tinyllama"}), SHARED, "its own namespace only"),
    ("empty fetch", pod({"fetch": " "}), SHARED, "name a DataFetch"),
    ("twice", pod({"fetch": "tinyllama,tinyllama"}), SHARED, "twice"),
    (
        "unknown key",
        pod({"fetchs": "tinyllama"}),
        SHARED,
        "datafetch.io/fetchs is unknown; did you mean 'datafetch.io/fetch'",
    ),
    ("no request", pod({"mount-path": "/x"}), SHARED, "nothing asks for data"),
    ("both inline", pod({"uri": HF, "config": "x"}), NOTHING, "exclude each other"),
    ("secret of a fetch", pod({"fetch": "tinyllama", "secret": "s"}), SHARED, "secretRef"),
    ("mount path", pod({"fetch": "tinyllama", "mount-path": "data"}), SHARED, "write an absolute one such as /data"),
    ("root", pod({"fetch": "tinyllama", "mount-path": "/"}), SHARED, "write an absolute one"),
    (
        "path taken",
        pod({"fetch": "tinyllama"}, containers=APP_AT_DATA),
        SHARED,
        "mounts volume 'v' at /data, where DataFetch 'tinyllama' would be",
    ),
    ("path below", pod({"fetch": "tinyllama"}, containers=APP_BELOW), SHARED, "at /data/cache"),
    (
        "nested",
        pod({"fetch": "tinyllama=/m, corpus=/m/c"}),
        RECIPES,
        "'corpus' would be mounted at /m/c, in 'tinyllama' (/m)",
    ),
    (
        "wait init",
        pod({"fetch": "tinyllama", "wait": "init"}),
        ONE_NODE,
        "only one node can mount claim 'data' (ReadWriteOnce)",
    ),
    ("wait none", pod({"fetch": "tinyllama", "wait": "none"}), SHARED, "is not Ready"),
    ("wait what", pod({"fetch": "tinyllama", "wait": "gates"}), SHARED, "did you mean 'gate'"),
    ("wait for nothing", pod({"uri": HF, "wait": "init"}), NOTHING, "names none; remove it"),
    ("node name", pod({"fetch": "tinyllama"}, nodeName="n1"), ONE_NODE, "use a nodeSelector instead"),
    ("volume of a target", pod({"fetch": "tinyllama", "volume": "v"}), SHARED, "has a target, whose claim is mounted"),
    ("size of a target", pod({"fetch": "tinyllama", "size": "1Gi"}), SHARED, "has a target"),
    ("container", pod({"fetch": "tinyllama", "containers": "ap"}), SHARED, "no container 'ap'; did you mean 'app'"),
    (
        "container name",
        pod({"fetch": "tinyllama", "containers": "A B"}),
        SHARED,
        "'A B' is not the name of a container",
    ),
    (
        "volume",
        pod({"uri": HF, "volume": "cahe"}, volumes=[{"name": "cache", "emptyDir": {}}]),
        NOTHING,
        "did you mean 'cache'",
    ),
    (
        "volume kind",
        pod({"uri": HF, "volume": "v"}, volumes=[{"name": "v", "configMap": {}}]),
        NOTHING,
        "is a configMap and cannot be written",
    ),
    ("volume read-only", pod({"uri": HF, "volume": "v"}, volumes=[CLAIM_READ_ONLY]), NOTHING, "mounted read-only"),
    ("claim read-only", pod({"uri": HF, "volume": "ro"}), READ_ONLY, "is ReadOnlyMany"),
    ("size and volume", pod({"uri": HF, "volume": "v", "size": "1Gi"}), NOTHING, "remove one of them"),
    ("path without volume", pod({"uri": HF, "path": "p"}), NOTHING, "add that, or remove it"),
    ("path", pod({"uri": HF, "path": "../p", "volume": "v"}), NOTHING, "without '..'"),
    ("size", pod({"uri": HF, "size": "big"}), NOTHING, "datafetch.io/size: 'big' is not a size"),
    ("cpu", pod({"uri": HF, "cpu": "1Gi"}), NOTHING, "is not an amount of CPU"),
    ("too much", pod({"uri": HF, "memory-limit": "9Gi"}), NOTHING, "asks for 9Gi, and this installation allows 8Gi"),
    (
        "request above limit",
        pod({"uri": HF, "cpu": "2", "cpu-limit": "1"}),
        NOTHING,
        "more than datafetch.io/cpu-limit allows (1)",
    ),
    ("read-only", pod({"uri": HF, "read-only": "yes"}), NOTHING, 'neither "true" nor "false"'),
    ("user", pod({"uri": HF, "run-as-user": "istio"}), NOTHING, "is not a user id"),
    ("after", pod({"uri": HF, "after": "A!"}), NOTHING, "is not the name of an init container"),
    ("uri", pod({"uri": "ftp://x"}), NOTHING, "datafetch.io/uri, line 1: 'ftp://x' is not a source"),
    ("uri line", pod({"uri": f"{HF}\nhttps://u:p@h/f"}), NOTHING, "line 2: 'https://h/f' holds a user or password"),
    ("uri words", pod({"uri": "s3://b/ a b"}), NOTHING, "URI DIRECTORY"),
    ("yaml", pod({"config": "download_items:\n- type: hf\n   name: x"}), NOTHING, "datafetch.io/config:3:"),
    (
        "config key",
        pod({"config": "download_items:\n- type: hf\n  name: x\n  repo: a/b"}),
        NOTHING,
        "datafetch.io/config:4:3",
    ),
    (
        "config root",
        pod({"config": f"download_root: /etc\ndownload_items: [{{{ITEM}}}]"}),
        NOTHING,
        "config:1:1: download_root must be relative",
    ),
    ("config managed", pod({"config": f"{MANAGED}\ndownload_items: [{{{ITEM}}}]"}), NOTHING, "use download_root"),
    (
        "config file",
        pod({"config": f"download_items: [{{{ITEM}, token_file: t}}]"}),
        NOTHING,
        "no Secret is mounted; name it in annotation datafetch.io/secret",
    ),
    (
        "config escapes",
        pod({"secret": "s", "config": f"download_items: [{{{ITEM}, token_file: /var/run/secrets/token}}]"}),
        NOTHING,
        "must be a key of the Secret",
    ),
    (
        "config escapes upwards",
        pod({"secret": "s", "config": f"download_items: [{{{ITEM}, token_file: ../weights/token}}]"}),
        NOTHING,
        "must be a key of the Secret",
    ),
    ("config long", pod({"config": "#" * 110_000}), NOTHING, "a pod can carry"),
    ("windows", pod({"uri": HF}, **WINDOWS), NOTHING, "Windows"),
    (
        "volume name",
        pod({"uri": HF}, volumes=[{"name": "datafetch-inline", "hostPath": {"path": "/"}}]),
        NOTHING,
        "a volume 'datafetch-inline' of its own",
    ),
    (
        "container taken",
        pod({"uri": HF}, initContainers=[{"name": "datafetch-inline", "image": "x"}]),
        NOTHING,
        "a container 'datafetch-inline' of its own",
    ),
    ("suspended", pod({"fetch": "tinyllama"}), Known({"tinyllama": recipe(suspend=True)}), "is suspended"),
    ("same name", pod({"fetch": "inline", "uri": HF}), Known({"inline": recipe("inline")}), "same name"),
]
