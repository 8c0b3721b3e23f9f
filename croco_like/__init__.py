"""RoPE, attention, transformer blocks and the cross-view completion model."""
