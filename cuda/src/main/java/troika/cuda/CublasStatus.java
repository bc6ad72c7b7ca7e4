package troika.cuda;

/// The statuses of cuBLAS (cublasStatus_t), which cuBLASLt returns.
final class CublasStatus {
    private CublasStatus() {}

    /// Such as "15 (CUBLAS_STATUS_NOT_SUPPORTED)".
    static String describe(int status) {
        return status + " (" + name(status) + ")";
    }

    /// The C name of a status.
    private static String name(int status) {
        return switch (status) {
            case 0 -> "CUBLAS_STATUS_SUCCESS";
            case 1 -> "CUBLAS_STATUS_NOT_INITIALIZED";
            case 3 -> "CUBLAS_STATUS_ALLOC_FAILED";
            case 7 -> "CUBLAS_STATUS_INVALID_VALUE";
            case 8 -> "CUBLAS_STATUS_ARCH_MISMATCH";
            case 11 -> "CUBLAS_STATUS_MAPPING_ERROR";
            case 13 -> "CUBLAS_STATUS_EXECUTION_FAILED";
            case 14 -> "CUBLAS_STATUS_INTERNAL_ERROR";
            case 15 -> "CUBLAS_STATUS_NOT_SUPPORTED";
            case 16 -> "CUBLAS_STATUS_LICENSE_ERROR";
            default -> "unknown";
        };
    }
}
