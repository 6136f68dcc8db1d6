"""What peprof itself costs. Ratios within one run are what counts; seconds depend on the machine."""
