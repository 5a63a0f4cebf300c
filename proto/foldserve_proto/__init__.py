"""The wire contract of foldserve: the messages and stubs of KServe V2 and of foldserve's own service.

``grpc_service_pb2``, ``model_config_pb2`` and ``fold_service_pb2`` hold the messages,
``grpc_service_pb2_grpc`` and ``fold_service_pb2_grpc`` the stubs and servicers; all are generated when the
distribution is built.
"""
