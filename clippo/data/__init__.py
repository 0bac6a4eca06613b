"""Data: a source gives examples, an order says which comes when, a loader makes batches of them."""
