"""What a graph computes, as algebra: proofs of rules, cost as expressions."""
