package troika.cuda;

/// The numbers of cudnn_graph.h (cudnnDataType_t and so on) that attention needs, by their names there.
/// They are the same in cuDNN 9.19 and 9.24.
final class CudnnNames {
    // cudnnDataType_t
    static final int FLOAT = 0;
    static final int HALF = 2;
    static final int INT32 = 4;
    static final int BFLOAT16 = 9;
    static final int BOOLEAN = 11;

    // cudnnBackendAttributeType_t
    static final int TYPE_HANDLE = 0;
    static final int TYPE_DATA_TYPE = 1;
    static final int TYPE_BOOLEAN = 2;
    static final int TYPE_INT64 = 3;
    static final int TYPE_VOID_PTR = 6;
    static final int TYPE_HEUR_MODE = 8;
    static final int TYPE_POINTWISE_MODE = 14;
    static final int TYPE_DESCRIPTOR = 15;
    static final int TYPE_REDUCTION = 18;
    static final int TYPE_CHAR = 24;

    // cudnnBackendDescriptorType_t
    static final int POINTWISE = 0;
    static final int ENGINE_CONFIG = 3;
    static final int ENGINE_HEURISTICS = 4;
    static final int EXECUTION_PLAN = 5;
    static final int OPERATION_POINTWISE = 13;
    static final int OPERATION_GRAPH = 15;
    static final int VARIANT_PACK = 16;
    static final int TENSOR = 17;
    static final int MATMUL = 18;
    static final int OPERATION_MATMUL = 19;
    static final int REDUCTION = 21;
    static final int OPERATION_REDUCTION = 22;
    static final int OPERATION_RESHAPE = 31;
    static final int OPERATION_BAND_MASK = 44;
    static final int OPERATION_SOFTMAX = 45;

    // cudnnPointwiseMode_t
    static final int ADD = 0;
    static final int MUL = 1;
    static final int DIV = 6;
    static final int SUB = 9;
    static final int EXP = 13;
    static final int LOG = 15;
    static final int IDENTITY = 21;
    static final int CMP_GE = 303;
    static final int CMP_LT = 304;
    static final int LOGICAL_AND = 400;
    static final int GEN_INDEX = 501;
    static final int BINARY_SELECT = 601;

    // cudnnReduceTensorOp_t
    static final int REDUCE_ADD = 0;
    static final int REDUCE_MAX = 3;

    // cudnnBackendHeurMode_t
    static final int MODE_FALLBACK = 2;
    static final int MODE_A = 3;

    // cudnnBackendAttributeName_t
    static final int POINTWISE_MODE = 0;
    static final int POINTWISE_MATH_PREC = 1;
    static final int POINTWISE_AXIS = 9;
    static final int ENGINE_HEURISTICS_MODE = 200;
    static final int ENGINE_HEURISTICS_OPERATION_GRAPH = 201;
    static final int ENGINE_HEURISTICS_RESULTS = 202;
    static final int PLAN_HANDLE = 400;
    static final int PLAN_ENGINE_CONFIG = 401;
    static final int PLAN_WORKSPACE_SIZE = 402;
    static final int PLAN_JSON = 405;
    static final int OP_POINTWISE_DESCRIPTOR = 750;
    static final int OP_POINTWISE_X = 751;
    static final int OP_POINTWISE_B = 752;
    static final int OP_POINTWISE_Y = 753;
    static final int OP_POINTWISE_T = 758;
    static final int GRAPH_HANDLE = 800;
    static final int GRAPH_OPERATIONS = 801;
    static final int TENSOR_BYTE_ALIGNMENT = 900;
    static final int TENSOR_DATA_TYPE = 901;
    static final int TENSOR_DIMENSIONS = 902;
    static final int TENSOR_STRIDES = 903;
    static final int TENSOR_UNIQUE_ID = 906;
    static final int TENSOR_IS_VIRTUAL = 907;
    static final int TENSOR_IS_BY_VALUE = 908;
    static final int TENSOR_RAGGED_OFFSET = 913;
    static final int PACK_UNIQUE_IDS = 1000;
    static final int PACK_DATA_POINTERS = 1001;
    static final int PACK_WORKSPACE = 1003;
    static final int MATMUL_COMP_TYPE = 1500;
    static final int OP_MATMUL_A = 1520;
    static final int OP_MATMUL_B = 1521;
    static final int OP_MATMUL_C = 1522;
    static final int OP_MATMUL_DESCRIPTOR = 1523;
    static final int OP_MATMUL_M_LENGTH = 1525;
    static final int OP_MATMUL_N_LENGTH = 1526;
    static final int OP_MATMUL_K_LENGTH = 1527;
    static final int REDUCTION_OPERATOR = 1600;
    static final int REDUCTION_COMP_TYPE = 1601;
    static final int OP_REDUCTION_X = 1610;
    static final int OP_REDUCTION_Y = 1611;
    static final int OP_REDUCTION_DESCRIPTOR = 1612;
    static final int OP_RESHAPE_X = 2200;
    static final int OP_RESHAPE_Y = 2201;
    static final int OP_BAND_MASK_X = 3000;
    static final int OP_BAND_MASK_FILL = 3005;
    static final int OP_BAND_MASK_Y = 3006;
    static final int OP_BAND_MASK_COMPARISON = 3007;
    static final int OP_SOFTMAX_X = 3100;
    static final int OP_SOFTMAX_Y = 3101;
    static final int OP_SOFTMAX_STATS = 3102;

    private CudnnNames() {}
}
