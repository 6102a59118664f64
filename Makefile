# Builds libcausvid, the `causvid` program, FFmpeg with the causvid source, and
# runs the tests. `make help` lists the targets.
#
# SPDX-License-Identifier: BSD-2-Clause

# Everything that is made lies here. `make BUILD=DIR` keeps several builds side
# by side; `./configure --build-dir=DIR` gives each its own settings.
BUILD ?= build

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:

# These goals need no configuration; the first three see to it themselves.
UNCONFIGURED := demo check setup dist clean distclean help fuzz
ifneq ($(filter-out $(UNCONFIGURED),$(or $(MAKECMDGOALS),all)),)
include $(BUILD)/config.mak
endif

# config.mak changes only when its content does, `configured` each time.
$(BUILD)/config.mak: $(BUILD)/configured ;
$(BUILD)/configured: configure engine/causvid.h patches/libraries.txt
	@if [ -e $(BUILD)/config.status ]; then \
	    sh $(BUILD)/config.status --quiet; \
	else \
	    ./configure --build-dir=$(BUILD); \
	fi

# ------------------------------------------------------------- the library

LIB_SRC := $(wildcard engine/*.c) \
           $(filter-out engine/cli/%,$(wildcard engine/*/*.c engine/*/*.cc))
CLI_SRC := $(wildcard engine/cli/*.c)
EVALUATE_SRC := $(wildcard samples/evaluate/*.c)

objects = $(patsubst %,$(BUILD)/obj/%.o,$(1))
LIB_OBJ := $(call objects,$(LIB_SRC))

LIB_STATIC := $(BUILD)/lib/libcausvid-internal.a
SONAME := libcausvid.so.0
LIB_SHARED := $(BUILD)/lib/libcausvid.so
CLI := $(if $(CLI_SRC),$(BUILD)/bin/causvid)
EVALUATE := $(if $(EVALUATE_SRC),$(BUILD)/bin/evaluate)

.PHONY: all
all: $(LIB_SHARED) $(LIB_STATIC) $(CLI) $(EVALUATE)

$(BUILD)/obj/%.c.o: %.c $(BUILD)/config.mak
	@mkdir -p $(@D)
	@echo "CC      $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/obj/%.cc.o: %.cc $(BUILD)/config.mak
	@mkdir -p $(@D)
	@echo "CXX     $<"
	@$(CXX) $(CPPFLAGS) $(CXXFLAGS) -MMD -MP -c -o $@ $<

# With all internal symbols: for the programs and tests here, not installed.
$(LIB_STATIC): $(LIB_OBJ)
	@mkdir -p $(@D)
	@echo "AR      $@"
	@rm -f $@
	@$(AR) qcs $@ $(LIB_OBJ)

# Symbols of the C++ library are visible by its own headers; the version script
# keeps them out of ours.
$(BUILD)/lib/$(SONAME): $(LIB_OBJ)
	@mkdir -p $(@D)
	@echo "LD      $@"
	@echo '{ global: causvid_*; local: *; };' > $(BUILD)/causvid.map
	@$(CXX) -shared -Wl,-soname,$(SONAME) \
	    -Wl,--version-script,$(BUILD)/causvid.map \
	    $(if $(filter release debug,$(MODE)),-Wl$(comma)-z$(comma)defs) \
	    -o $@ $(LIB_OBJ) $(LDFLAGS) $(LIBS)
comma := ,

$(LIB_SHARED): $(BUILD)/lib/$(SONAME)
	@ln -sf $(SONAME) $@
	@touch -h $@

# $(call program,FILE,SOURCES): a program of these files and the library
define program
$(1): $(call objects,$(2)) $$(LIB_STATIC)
	@mkdir -p $$(@D)
	@echo "LD      $$@"
	@$$(CXX) -o $$@ $$(filter %.o,$$^) $$(EXTRA) $$(LIB_STATIC) $$(LDFLAGS) $$(LIBS)
endef
$(if $(CLI),$(eval $(call program,$(CLI),$(CLI_SRC))))
$(if $(EVALUATE),$(eval $(call program,$(EVALUATE),$(EVALUATE_SRC))))

# ------------------------------------------------------------------- tests

# tests/X/test_NAME.c is a program that prints TAP, tests/X/NAME.t a shell
# script that does. Other C files in tests/ and in tests/X are linked with the
# programs (of X).
C_TESTS := $(foreach d,unit ops model,$(wildcard tests/$(d)/test_*.c))
FUZZERS := $(wildcard tests/fuzz/fuzz_*.c)
c_test = $(patsubst %.c,$(BUILD)/%,$(filter tests/$(1)/%,$(C_TESTS)))
t_test = $(wildcard tests/$(1)/*.t)
helpers = $(wildcard tests/*.c) \
    $(filter-out $(wildcard tests/$(1)/test_*.c tests/$(1)/fuzz_*.c),$(wildcard tests/$(1)/*.c))

$(foreach t,$(C_TESTS),$(eval $(call program,$(BUILD)/$(t:.c=),\
    $(t) $(call helpers,$(word 2,$(subst /, ,$(t)))))))
$(foreach f,$(FUZZERS),$(eval $(call program,$(BUILD)/$(f:.c=),\
    $(f) $(call helpers,fuzz))))
$(BUILD)/tests/fuzz/%: EXTRA = -fsanitize=fuzzer

.PHONY: tests
tests: $(patsubst %.c,$(BUILD)/%,$(C_TESTS))

# Tests find everything through these. ASan's leak check needs no ptrace here.
TEST_ENV = CAUSVID_SRC=$(SRC) CAUSVID_BUILD=$(abspath $(BUILD)) \
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# Each test is run as a program of its own: scripts have a #! line.
PROVE = env $(TEST_ENV) prove --timer --failures --merge

.PHONY: check-unit check-ops check-model check-engine
check-unit check-ops check-model: check-%: all tests
	@echo "== tests/$*"
	@set -- $(call c_test,$*) $(call t_test,$*); \
	if [ $$# = 0 ]; then \
	    echo "There are no tests in tests/$*." >&2; exit 1; \
	fi; \
	$(PROVE) --exec '' "$$@"
check-engine: check-unit check-ops check-model

# The fuzzers are built in a configuration of their own, by clang.
FUZZ_SECONDS ?= 60
FUZZ_JOBS ?= 2

.PHONY: fuzz run-fuzz
fuzz:
	@[ -e $(BUILD)/fuzz/config.mak ] || \
	    ./configure --quiet --build-dir=$(BUILD)/fuzz --enable-fuzz
	@$(MAKE) --no-print-directory -j$(FUZZ_JOBS) BUILD=$(BUILD)/fuzz run-fuzz

run-fuzz: $(FUZZERS:tests/fuzz/%.c=run-%)
	@[ -n "$(FUZZERS)" ] || { echo "There are no tests/fuzz/fuzz_*.c." >&2; exit 1; }

# New inputs go to the build folder; those in git are only read. A crash leaves
# its input beside the log.
.PHONY: $(FUZZERS:tests/fuzz/%.c=run-%)
$(FUZZERS:tests/fuzz/%.c=run-%): run-fuzz_%: $(BUILD)/tests/fuzz/fuzz_%
	@mkdir -p $(BUILD)/new-inputs/$*
	@echo "FUZZ    $* for $(FUZZ_SECONDS) s"
	@$< -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=2048 \
	    -print_final_stats=1 -artifact_prefix=$(BUILD)/fuzz_$*- \
	    $(BUILD)/new-inputs/$* $(wildcard tests/fuzz/corpus/$*) \
	    > $(BUILD)/fuzz_$*.log 2>&1 || { \
	    tail -n 60 $(BUILD)/fuzz_$*.log; \
	    echo "fuzz_$* failed: $(BUILD)/fuzz_$*.log" >&2; exit 1; }
	@echo "  $*: $$(sed -n 's/^stat::number_of_executed_units: */runs /p' \
	    $(BUILD)/fuzz_$*.log), $$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' \
	    $(BUILD)/fuzz_$*.log | tail -n 1) edges, nothing found"

-include $(patsubst %,$(BUILD)/obj/%.d,$(basename $(foreach s,$(LIB_SRC) \
    $(CLI_SRC) $(EVALUATE_SRC) $(wildcard tests/*.c tests/*/*.c),$(s).o)))
