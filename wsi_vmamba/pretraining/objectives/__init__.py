"""What a pretraining minimises: one file for each line of `wsi_vmamba.pretraining.OBJECTIVES`."""
