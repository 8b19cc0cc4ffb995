"""One thread for all tests: on small tensors, torch's threads cost more in waiting for each other than they save."""

import torch

torch.set_num_threads(1)
