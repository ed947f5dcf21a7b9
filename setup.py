"""Package metadata. The versions that are tested together stand in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
CONSTRAIN = ["llguidance>=1.9"]
EVAL = [
    "lm_eval>=0.4.13",
    "nltk>=3.9",
    "rouge_score>=0.1.2",
    "sacrebleu>=2.5",
    "scikit-learn>=1.7",
    "seqeval>=1.2.2",
]
RETRIEVAL = [
    "bm25s>=0.3",
    "faiss-cpu>=1.12",
    "jieba>=0.42",
    "snowballstemmer>=3.0",
]


def version():
    """`__version__`, read without importing the package."""
    text = (HERE / "jaxlm" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


setup(
    name="jaxlm",
    version=version(),
    description="Train, sample and judge language models in JAX, from one command",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    packages=find_packages(include=["jaxlm", "jaxlm.*"]),
    package_data={
        "jaxlm.data.bundled": ["*.xz", "index.json"],
        "jaxlm.eval": ["report.html"],
        "jaxlm.interop.lm_eval_tasks": ["*.yaml"],
    },
    install_requires=[
        "etils[epath]>=1.12",
        "flax>=0.12",
        "grain>=0.2.18",
        "importlib_resources>=6.4",  # tensorflow-datasets imports it and does not ask for it
        "jax>=0.10",
        "jinja2>=3.1.6",  # older ones have ways out of the sandbox that chat templates run in
        "matplotlib>=3.10",
        "ml-collections>=1.1",
        "numpy>=2.2",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "rich>=14",
        "sentencepiece>=0.2",
        "tensorboardX>=2.6.4",
        "tensorflow-datasets>=4.9.10",  # data sources only: TensorFlow itself is not needed
        "tokenizers>=0.22",
    ],
    extras_require={
        "cuda": ["jax[cuda]"],
        "tpu": ["jax[tpu]"],
        "hf": ["datasets", "gguf>=0.19", "safetensors>=0.7"],
        "eval": EVAL,
        "constrain": CONSTRAIN,
        "retrieval": RETRIEVAL,
        "serve": [],  # the server is planned; the extra is there so that its name stays
        "test": [
            *CONSTRAIN,
            *EVAL,
            *RETRIEVAL,
            "gguf>=0.19",
            "pytest>=9",
            "pytest-cov>=7",
            "pytest-xdist>=3.8",
            "ruff>=0.17",
            "safetensors>=0.7",
            "setuptools>=77",
        ],
        "parity": [
            "accelerate>=1.12",
            "gensim>=4.4",
            "hmmlearn>=0.3.3",
            "peft>=0.19",
            "torch>=2.10",
            "transformers>=5",
            "trl>=1.0",
        ],
        "docs": ["ipykernel", "nbclient"],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
