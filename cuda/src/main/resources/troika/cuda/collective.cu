// Sums of what ranks hold, for collectives between cards.
//
// sum_parts_f32, sum_parts_bf16, sum_parts_f16(
//         16 x const T* in0 ... in15, T* out, int parts, long long n)
// 19 arguments for CudaFunction.launch: 17 Long (those of in0 ... in15 past `parts` may be 0), Integer, Long.
//
// out[i] = in0[i] + in1[i] + ... for 0 <= i < n, in this order, in fp32, rounded once; 1 <= parts <= 16. Pointers are
// aligned to their elements. `out` may be one of the inputs (the same address), but must not overlap one otherwise.
// Blocks are of 256 threads; the grid may have any size (a good one: 8 blocks a multiprocessor, or fewer where
// n < 256 * 16 / sizeof(T) a block), which does not change the result. Shared memory: none.
//
// Where the addresses of all parts and `out` are the same modulo 16, elements move as packs of 16 bytes; otherwise each
// alone.

#define MOST_PARTS 16

// The sum of N elements from `at` on. The loads of four parts are on their way together.
template <typename T, int N>
__device__ __forceinline__ void sum_parts_at(
        const T* const (&in)[MOST_PARTS], T* out, int parts, long long at) {
    constexpr int LOADS = 4;
    float sum[N];
    float values[N];
    Pack<T, N> packs[LOADS];
#pragma unroll
    for (int from = 0; from < MOST_PARTS; from += LOADS) {
        if (from < parts) {
#pragma unroll
            for (int k = 0; k < LOADS; k++) {
                if (from + k < parts) {
                    packs[k] = load_pack<N>(in[from + k] + at);
                }
            }
#pragma unroll
            for (int k = 0; k < LOADS; k++) {
                if (from + k < parts) {
                    packs[k].get(values);
#pragma unroll
                    for (int i = 0; i < N; i++) {
                        sum[i] = from + k == 0 ? values[i] : sum[i] + values[i];
                    }
                }
            }
        }
    }
    store_floats<N>(out + at, sum);
}

template <typename T>
__device__ __forceinline__ void sum_parts(const T* const (&in)[MOST_PARTS], T* out, int parts, long long n) {
    constexpr int N = Wide<T>::N;
    unsigned long long place = reinterpret_cast<unsigned long long>(out);
    unsigned long long differences = 0;
#pragma unroll
    for (int r = 0; r < MOST_PARTS; r++) {
        if (r < parts) {
            differences |= place ^ reinterpret_cast<unsigned long long>(in[r]);
        }
    }
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long threads = (long long)gridDim.x * blockDim.x;
    if (differences % 16 != 0) {
        for (long long i = thread; i < n; i += threads) {
            sum_parts_at<T, 1>(in, out, parts, i);
        }
        return;
    }
    // A few elements up to a multiple of 16 bytes, packs, and a few elements.
    long long head = (long long)((0 - place) % 16 / sizeof(T));
    head = head < n ? head : n;
    long long packs = (n - head) / N;
    for (long long i = thread; i < packs; i += threads) {
        sum_parts_at<T, N>(in, out, parts, head + i * N);
    }
    long long tail = head + packs * N;
    if (thread < head) {
        sum_parts_at<T, 1>(in, out, parts, thread);
    } else if (thread >= N && tail + thread - N < n) {
        sum_parts_at<T, 1>(in, out, parts, tail + thread - N);
    }
}

#define SUM_PARTS(SUFFIX, T) \
    extern "C" __global__ void __launch_bounds__(256) sum_parts_##SUFFIX( \
            const T* in0, const T* in1, const T* in2, const T* in3, const T* in4, const T* in5, const T* in6, \
            const T* in7, const T* in8, const T* in9, const T* in10, const T* in11, const T* in12, const T* in13, \
            const T* in14, const T* in15, T* out, int parts, long long n) { \
        const T* const in[MOST_PARTS] = { \
                in0, in1, in2, in3, in4, in5, in6, in7, in8, in9, in10, in11, in12, in13, in14, in15}; \
        sum_parts<T>(in, out, parts, n); \
    }
SUM_PARTS(f32, float)
SUM_PARTS(bf16, bf16)
SUM_PARTS(f16, f16)
