"""nftables without the nft program: rules as values, one transaction a change."""
