"""The end of a run: a table, a file of results, a picture."""

from __future__ import annotations

import json
from dataclasses import asdict

from clippo.data.emoji import EmojiDataset
from clippo.evaluation.pictures import draw_sheet, sample_findings
from clippo.evaluation.retrieval import evaluate_retrieval, format_table
from clippo.model import Clippo
from clippo.model.files import write_text
from clippo.training.run_folder import RunFolder


def report(model: Clippo, dataset: EmojiDataset, folder: RunFolder) -> None:
    """Evaluate a trained model: print the table, leave results.json and retrieval.png in the run's folder."""
    rows = evaluate_retrieval(model, dataset)
    print(f"\n{format_table(rows)}\n")
    results = folder.path / "results.json"
    write_text(results, json.dumps([asdict(row) | {"chance": row.chance} for row in rows], indent=2) + "\n")
    picture = folder.path / "retrieval.png"
    draw_sheet(dataset, sample_findings(model, dataset)).save(picture)
    print(f"{results} holds the table; {picture} shows the pictures found for some names in every language.")
