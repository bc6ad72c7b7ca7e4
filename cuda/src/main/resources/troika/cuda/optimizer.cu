// The gradient's norm, clipping and AdamW, over flat memory.

// Each block writes a partial sum of squares. A thread adds few numbers in fp32, in 16 sums; the rest is in fp64.
template <int N>
__device__ __forceinline__ void sum_squares(const float* __restrict__ x, long long n, double* __restrict__ partials) {
    constexpr int EACH = 4;
    __shared__ double shared[WARP];
    float sums[EACH][N];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            sums[k][i] = 0;
        }
    }
    long long packs = n / N;
    long long stride = (long long)gridDim.x * blockDim.x;
    for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < packs; at += EACH * stride) {
        Pack<float, N> loaded[EACH];
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            if (at + k * stride < packs) {
                loaded[k] = load_pack<N>(x + (at + k * stride) * N);
            }
        }
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            if (at + k * stride < packs) {
                float values[N];
                loaded[k].get(values);
#pragma unroll
                for (int i = 0; i < N; i++) {
                    sums[k][i] += values[i] * values[i];
                }
            }
        }
    }
    double sum = 0;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            sum += sums[k][i];
        }
    }
    long long last = packs * N + threadIdx.x;
    if (blockIdx.x == gridDim.x - 1 && last < n) {
        sum += x[last] * x[last];
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(512) sum_squares_f32(const float* x, long long n, double* partials) {
    sum_squares<4>(x, n, partials);
}

extern "C" __global__ void __launch_bounds__(512) sum_squares_f32_any(const float* x, long long n, double* partials) {
    sum_squares<1>(x, n, partials);
}

// out (+)= the sum of `parts` numbers; one block.
extern "C" __global__ void __launch_bounds__(512) sum_doubles(
        const double* partials, int parts, float* out, int accumulate) {
    __shared__ double shared[WARP];
    double sum = 0;
    for (int i = threadIdx.x; i < parts; i += blockDim.x) {
        sum += partials[i];
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) {
        *out = (float)(accumulate ? *out + sum : sum);
    }
}

__device__ __forceinline__ bool is_finite(float x) {
    return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u;
}

extern "C" __global__ void clip_factor(
        const float* sum_squares, const float* loss, const float* unscale, float max_norm, float* out) {
    float norm = sqrtf(*sum_squares) * *unscale;
    float factor = max_norm == 0 ? 1.0f : fminf(1.0f, max_norm / (norm + 1e-6f));
    out[0] = norm;
    out[1] = is_finite(norm) && is_finite(*loss) ? factor * *unscale : __uint_as_float(0x7fc00000u);
}

__device__ __forceinline__ unsigned mix(unsigned x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}

// Moments are stored as they are or, in bf16, rounded up or down at random: see Kernels.adamw.

template <typename M>
struct Rounding;

template <>
struct Rounding<float> {
    static __device__ __forceinline__ float first(float x, unsigned) {
        return x;
    }

    static __device__ __forceinline__ float second(float x, unsigned) {
        return x;
    }
};

__device__ __forceinline__ float round_with(float x, unsigned random) {
    unsigned bits = __float_as_uint(x);
    return __uint_as_float((is_finite(x) ? bits + random : bits) & 0xffff0000u);
}

template <>
struct Rounding<bf16> {
    static __device__ __forceinline__ float first(float x, unsigned random) {
        return round_with(x, random & 0xffffu);
    }

    static __device__ __forceinline__ float second(float x, unsigned random) {
        return round_with(x, random >> 16);
    }
};

struct Constants {
    float beta1;
    float rest1;
    float beta2;
    float rest2;
    float epsilon;
};

// N elements from `at` on, loaded by one function and stored by another, so that several are on their way.
template <typename M, typename W, int N>
struct Elements {
    Pack<float, N> p;
    Pack<float, N> g;
    Pack<M, N> m;
    Pack<M, N> v;

    __device__ __forceinline__ void load(
            long long at, const float* master, const M* moment1, const M* moment2, const float* gradient) {
        p = load_pack<N>(master + at);
        g = load_pack<N>(gradient + at);
        m = load_pack<N>(moment1 + at);
        v = load_pack<N>(moment2 + at);
    }

    __device__ __forceinline__ void update(
            long long at, float* master, M* moment1, M* moment2, W* weight, long long decayed, long long number,
            float factor, float keep, float step, float correction, unsigned seed, Constants c) {
        float ps[N];
        float gs[N];
        float ms[N];
        float vs[N];
        p.get(ps);
        g.get(gs);
        m.get(ms);
        v.get(vs);
#pragma unroll
        for (int i = 0; i < N; i++) {
            float gradient = gs[i] * factor;
            float first = ms[i] * c.beta1 + gradient * c.rest1;
            float second = vs[i] * c.beta2 + gradient * gradient * c.rest2;
            float shrunk = at + i < decayed ? ps[i] * keep : ps[i];
            ps[i] = shrunk - first * step / (sqrtf(second) * correction + c.epsilon);
            unsigned long long index = (unsigned long long)(number + i);
            // Not needed, and so not computed, where moments are fp32.
            unsigned random = mix(mix((unsigned)index ^ seed) + (unsigned)(index >> 32));
            ms[i] = Rounding<M>::first(first, random);
            vs[i] = Rounding<M>::second(second, random);
        }
        store_floats<N>(master + at, ps);
        store_floats<N>(moment1 + at, ms);
        store_floats<N>(moment2 + at, vs);
        if (weight != nullptr) {
            store_floats<N>(weight + at, ps);
        }
    }
};

// `weight` is null where it is the master itself. The last few elements, which fill no pack, go to the last block.
template <typename M, typename W, int N>
__device__ __forceinline__ void adamw(
        float* __restrict__ master, M* __restrict__ moment1, M* __restrict__ moment2,
        const float* __restrict__ gradient, W* __restrict__ weight, const float* __restrict__ clip,
        const float* __restrict__ scalars, long long n, long long decayed, float weight_decay, long long first,
        Constants c) {
    constexpr int EACH = N == 1 ? 4 : 2;
    float factor = clip[1];
    if (factor != factor) {
        return;
    }
    float rate = scalars[0];
    float keep = 1 - rate * weight_decay;
    float step = rate * scalars[1];
    float correction = scalars[2];
    unsigned seed = __float_as_uint(scalars[3]);
    long long packs = n / N;
    long long start = (long long)blockIdx.x * (EACH * blockDim.x) + threadIdx.x;
    Elements<M, W, N> elements[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        long long pack = start + k * blockDim.x;
        if (pack < packs) {
            elements[k].load(pack * N, master, moment1, moment2, gradient);
        }
    }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        long long pack = start + k * blockDim.x;
        if (pack < packs) {
            long long at = pack * N;
            elements[k].update(
                    at, master, moment1, moment2, weight, decayed, first + at, factor, keep, step, correction, seed, c);
        }
    }
    long long last = packs * N + threadIdx.x;
    if (blockIdx.x == gridDim.x - 1 && last < n) {
        Elements<M, W, 1> element;
        element.load(last, master, moment1, moment2, gradient);
        element.update(
                last, master, moment1, moment2, weight, decayed, first + last, factor, keep, step, correction, seed, c);
    }
}

#define ADAMW_KERNEL(NAME, M, W, N) \
    extern "C" __global__ void __launch_bounds__(256) NAME( \
            float* master, M* moment1, M* moment2, const float* gradient, W* weight, const float* clip, \
            const float* scalars, long long n, long long decayed, float beta1, float rest1, float beta2, float rest2, \
            float epsilon, float weight_decay, long long first) { \
        adamw<M, W, N>( \
                master, moment1, moment2, gradient, weight, clip, scalars, n, decayed, weight_decay, first, \
                Constants{beta1, rest1, beta2, rest2, epsilon}); \
    }

// adamw_<dtype of the moments>_<dtype of the weight>
#define ADAMW(MOMENTS, M, WEIGHT, W) \
    ADAMW_KERNEL(adamw_##MOMENTS##_##WEIGHT, M, W, 4) \
    ADAMW_KERNEL(adamw_##MOMENTS##_##WEIGHT##_any, M, W, 1)
ADAMW(f32, float, f32, float)
ADAMW(f32, float, bf16, bf16)
ADAMW(f32, float, f16, f16)
ADAMW(bf16, bf16, f32, float)
ADAMW(bf16, bf16, bf16, bf16)
ADAMW(bf16, bf16, f16, f16)
