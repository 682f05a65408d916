"""Which files of a model repository are weights in another format than safetensors. Pure.

Decided by the name alone, whatever its letter case: nothing is read. Pickles run code when they are loaded, so what
may be one is left out although some are not (`.bin`). Configs, tokenizers and code are no weights.
"""

SAFETENSORS = ".safetensors"
_PICKLES = (
    ".bin", ".ckpt", ".dill", ".distcp", ".joblib", ".nemo", ".pickle", ".pkl", ".pt", ".pth",
)  # fmt: skip
"""PyTorch's, scikit-learn's and others': pickles, or archives of them."""
_OTHERS = (
    ".engine", ".ggml", ".gguf", ".h5", ".hdf5", ".keras", ".llamafile", ".mlmodel", ".mnn", ".msgpack", ".onnx",
    ".onnx_data", ".ort", ".ot", ".pb", ".pdiparams", ".pdparams", ".pte", ".tflite",
)  # fmt: skip
"""Copies for other frameworks: llama.cpp, TensorFlow, Flax, ONNX, Core ML, TensorRT and so on."""
_INDEX = ".index.json"
"""Which weights are in which of several files: `pytorch_model.bin.index.json`."""
_DIRECTORIES = (".mlpackage/", "saved_model/variables/")


def is_left_out(path: str) -> bool:
    """Return whether a file holds weights in another format than safetensors, or the index of such."""
    name = path.lower().removesuffix(_INDEX)
    if name.endswith(_PICKLES + _OTHERS):
        return True
    # TensorFlow's checkpoints: model.ckpt.index, model.ckpt.data-00000-of-00001.
    last = name.rpartition("/")[2]
    is_checkpoint = ".ckpt" in last and (last.endswith((".index", ".meta")) or ".data-" in last)
    is_openvino = last.startswith("openvino_") and last.endswith(".xml")
    return is_checkpoint or is_openvino or any(directory in name for directory in _DIRECTORIES)
