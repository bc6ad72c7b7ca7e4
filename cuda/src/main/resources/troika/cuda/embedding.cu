// The embedding: rows gathered from a table, and their gradients summed into it.

// The row of a token in a table of `table_rows` rows, the first of which is that of the token `first`; negative where
// it has none.
__device__ __forceinline__ int table_row(int token, long long first, int table_rows) {
    long long row = token - first;
    return row >= 0 && row < table_rows ? (int)row : -1;
}

// out[t] = table[the row of tokens[t]] or zeros, rows of `units` units of any type; `threads` threads, a power of two,
// write a row.
template <typename Unit>
__device__ __forceinline__ void embedding(
        const int* __restrict__ tokens, const Unit* __restrict__ table, Unit* __restrict__ out, long long rows,
        int units, int threads, long long first, int table_rows) {
    long long row = (long long)blockIdx.x * (blockDim.x / threads) + threadIdx.x / threads;
    if (row >= rows) {
        return;
    }
    int from_row = table_row(tokens[row], first, table_rows);
    Unit* to = out + row * units;
    if (from_row < 0) {
        for (int i = threadIdx.x % threads; i < units; i += threads) {
            to[i] = Unit();
        }
        return;
    }
    const Unit* from = table + (long long)from_row * units;
#pragma unroll 4
    for (int i = threadIdx.x % threads; i < units; i += threads) {
        to[i] = from[i];
    }
}

#define EMBEDDING(BYTES, UNIT) \
    extern "C" __global__ void embedding_##BYTES( \
            const int* tokens, const UNIT* table, UNIT* out, long long rows, int units, int threads, long long first, \
            int table_rows) { \
        embedding<UNIT>(tokens, table, out, rows, units, threads, first, table_rows); \
    }
EMBEDDING(16, uint4)
EMBEDDING(4, unsigned)
EMBEDDING(2, unsigned short)

// The backward must add rows in the order of t, without atomics on numbers whose sum depends on their order. Those on
// integers do not: for each row of the table, how often its token occurs, and how far from the end it first does.

// `places` [table_rows] starts as zeros and gets rows - (the first t with this token); `counts` likewise its
// occurrences.
extern "C" __global__ void count_tokens(
        const int* tokens, int rows, int* places, int* counts, long long first, int table_rows) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t < rows) {
        int row = table_row(tokens[t], first, table_rows);
        if (row >= 0) {
            atomicMax(places + row, rows - t);
            atomicAdd(counts + row, 1);
        }
    }
}

// A block has a row t and blockDim.x * N columns; it ends at once where t is not the first occurrence of its token, or
// the table has no row for that. Otherwise it looks through the tokens from t on, AT_A_TIME for each thread, lists those that are the same, and adds
// their rows, several of which are on their way at a time.
template <typename T, int N>
__device__ __forceinline__ void embedding_backward(
        const int* __restrict__ tokens, const int* __restrict__ places, const int* __restrict__ counts,
        const T* __restrict__ grad_out, float* grad_table, int rows, int columns, int accumulate,
        long long first_token, int table_rows) {
    constexpr int AT_A_TIME = 4;
    constexpr int LOADS = N == 1 ? 8 : 32 / N;
    constexpr int MOST_WARPS = 8;
    __shared__ int found[AT_A_TIME * MOST_WARPS];
    __shared__ int list[AT_A_TIME * MOST_WARPS * WARP];
    int first = blockIdx.x;
    int token = tokens[first];
    int row = table_row(token, first_token, table_rows);
    if (row < 0 || places[row] != rows - first) {
        return;
    }
    int remaining = counts[row];
    int warp = threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    int warps = blockDim.x / WARP;
    int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
    const T* from = grad_out + column;
    float* to = grad_table + (long long)row * columns + column;
    float sum[N];
    float values[N];
    constexpr int M = N == 1 ? 1 : 4;
#pragma unroll
    for (int i = 0; i < N; i++) {
        sum[i] = 0;
    }
    if (accumulate && column < columns) {
#pragma unroll
        for (int i = 0; i < N; i += M) {
            load_floats<M>(to + i, sum + i);
        }
    }
    for (int base = first; remaining > 0; base += AT_A_TIME * blockDim.x) {
        int listed;
        if (base == first && remaining == 1) {
            // Most tokens occur once: nothing to look for.
            if (threadIdx.x == 0) {
                list[0] = first;
            }
            listed = 1;
        } else {
            unsigned same[AT_A_TIME];
#pragma unroll
            for (int k = 0; k < AT_A_TIME; k++) {
                long long t = (long long)base + k * blockDim.x + threadIdx.x;
                same[k] = __ballot_sync(ALL_LANES, t < rows && tokens[t] == token);
                if (lane == 0) {
                    found[k * warps + warp] = __popc(same[k]);
                }
            }
            __syncthreads();
            listed = 0;
            int before[AT_A_TIME];
            for (int k = 0; k < AT_A_TIME * warps; k++) {
#pragma unroll
                for (int j = 0; j < AT_A_TIME; j++) {
                    if (k == j * warps + warp) {
                        before[j] = listed;
                    }
                }
                listed += found[k];
            }
#pragma unroll
            for (int k = 0; k < AT_A_TIME; k++) {
                if (same[k] >> lane & 1) {
                    list[before[k] + __popc(same[k] & ((1u << lane) - 1))] = base + k * blockDim.x + threadIdx.x;
                }
            }
        }
        __syncthreads();
        if (column < columns) {
            for (int i = 0; i < listed; i += LOADS) {
                Pack<T, N> packs[LOADS];
#pragma unroll
                for (int k = 0; k < LOADS; k++) {
                    if (i + k < listed) {
                        packs[k] = load_pack<N>(from + (long long)list[i + k] * columns);
                    }
                }
#pragma unroll
                for (int k = 0; k < LOADS; k++) {
                    if (i + k < listed) {
                        packs[k].get(values);
#pragma unroll
                        for (int j = 0; j < N; j++) {
                            sum[j] += values[j];
                        }
                    }
                }
            }
        }
        remaining -= listed;
        // The list is written again only when everybody has read it.
        __syncthreads();
    }
    if (column < columns) {
#pragma unroll
        for (int i = 0; i < N; i += M) {
            store_floats<M>(to + i, sum + i);
        }
    }
}

#define EMBEDDING_BACKWARD(SUFFIX, T, N) \
    extern "C" __global__ void __launch_bounds__(256) embedding_backward_##SUFFIX( \
            const int* tokens, const int* places, const int* counts, const T* grad_out, float* grad_table, int rows, \
            int columns, int accumulate, long long first_token, int table_rows) { \
        embedding_backward<T, N>( \
                tokens, places, counts, grad_out, grad_table, rows, columns, accumulate, first_token, table_rows); \
    }
FOR_DTYPES(EMBEDDING_BACKWARD)
