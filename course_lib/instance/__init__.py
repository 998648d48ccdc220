"""Instance-wise methods: each image gets its own depth, width or parameters (survey section 2, arXiv 2102.04906)."""
