"""No near-duplicates among the texts of a job: what two texts are alike by, and which of them stays."""
