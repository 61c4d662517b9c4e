"""One thread per test process: the models are tiny, and two processes share two cores."""

import torch

torch.set_num_threads(1)
