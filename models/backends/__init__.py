"""One engine a module. These are the only modules of Nightmill that import torch, vLLM or transformers."""
