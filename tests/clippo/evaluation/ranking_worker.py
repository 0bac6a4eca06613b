"""One process of the test in test_ranking.py: saves the ranks that it got to OUT.

python ranking_worker.py RANK WORLD_SIZE STORE OUT
"""

import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from clippo.evaluation.ranking import RightCandidates, rank_candidates


def data():
    """Queries and candidates of more than one block, some with several right candidates."""
    generator = torch.Generator().manual_seed(0)
    queries, candidates = (torch.randn(n, 8, generator=generator) for n in (1301, 1500))
    keys = [[i // 3] for i in range(1500)]
    return queries, candidates, RightCandidates.of_keys([[i % 500] for i in range(1301)], keys)


def main(rank, world_size, store, out):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=60), rank=rank, world_size=world_size
    )
    found = rank_candidates(*data(), group=dist.group.WORLD)
    torch.save([found.best, found.average_precision], out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
