"""What training maximises: log-likelihoods and bounds on them, generic over the model contracts."""
