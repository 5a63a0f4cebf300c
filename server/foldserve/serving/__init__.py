"""Models ready to answer: repository, lifecycle, loading, servables and the data plane."""
