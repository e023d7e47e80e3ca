//! Plugins that mean harm, or might as well: each gets its own words, and the engine goes on serving.

mod plugin_support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use eddy::plugin::{Config, Context, Limits, PluginError, Verdict};
use plugin_support::*;

/// What becomes of the first batch that this guest gets.
async fn outcome(guest: Guest<'_>) -> Result<Verdict, PluginError> {
    let engine = engine();
    let outcome = match start(&engine, guest.component(), &[]).await {
        Err(error) => Err(error),
        Ok(instance) => {
            let (instance, outcome) = process(&engine, instance, three()).await;
            let lasting = matches!(
                outcome,
                Err(PluginError::Trapped(_) | PluginError::TimedOut(_))
            );
            assert!(!lasting || instance.is_poisoned());
            outcome
        }
    };
    assert_eq!(wait_for_no_instance(&engine).await, 0);
    assert_serves(&engine).await;
    outcome
}

async fn wait_for_no_instance(engine: &eddy::plugin::Engine) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(10);
    while engine.instances() > 0 && Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    engine.instances()
}

const LOOP: &str = "(loop $again (br $again)) unreachable";
const GROW: &str =
    "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
const RECURSION: &str = "(func $deeper (param i32) (result i32)
    (i32.add (call $deeper (i32.add (local.get 0) (i32.const 1))) (local.get 0)))";

#[tokio::test]
async fn an_infinite_loop_runs_out_of_time() {
    let began = Instant::now();
    let looping = outcome(Guest {
        process: LOOP,
        ..Guest::default()
    })
    .await;
    assert_eq!(
        looping.unwrap_err(),
        PluginError::TimedOut(config().batch_time_max)
    );
    assert!(began.elapsed() >= config().batch_time_max);
}

#[tokio::test]
async fn a_loop_around_a_host_function_runs_out_of_time_too() {
    let process = "(loop $again (call $log (i32.const 3) (i32.const 0) (i32.const 60000)) (br $again)) unreachable";
    let looping = outcome(Guest {
        process,
        ..Guest::default()
    })
    .await;
    assert_eq!(
        looping.unwrap_err(),
        PluginError::TimedOut(config().batch_time_max)
    );
}

#[tokio::test]
async fn an_init_that_loops_runs_out_of_time() {
    let looping = outcome(Guest {
        init: LOOP,
        ..Guest::default()
    })
    .await;
    assert_eq!(
        looping.unwrap_err(),
        PluginError::TimedOut(config().init_time_max)
    );
}

#[tokio::test]
async fn a_start_function_that_loops_runs_out_of_time() {
    let fields = format!("(func $start {LOOP}) (start $start)");
    let looping = outcome(Guest {
        fields: &fields,
        ..Guest::default()
    })
    .await;
    assert_eq!(
        looping.unwrap_err(),
        PluginError::TimedOut(config().init_time_max)
    );
}

#[tokio::test]
async fn infinite_recursion_overflows_the_plugins_own_stack() {
    let process = "(call $deeper (i32.const 0))";
    let recursing = outcome(Guest {
        process,
        fields: RECURSION,
        ..Guest::default()
    })
    .await;
    assert_eq!(
        recursing.unwrap_err(),
        PluginError::Trapped("stack overflow".into())
    );
}

#[tokio::test]
async fn a_memory_bomb_is_told_no_and_named() {
    let growing = outcome(Guest {
        process: GROW,
        ..Guest::default()
    })
    .await;
    assert_eq!(growing.unwrap_err(), PluginError::OutOfMemory(64 << 20));
}

#[tokio::test]
async fn a_start_function_that_grows_is_told_no() {
    let fields = format!("(func $start {GROW}) (start $start)");
    let growing = outcome(Guest {
        fields: &fields,
        ..Guest::default()
    })
    .await;
    assert_eq!(growing.unwrap_err(), PluginError::OutOfMemory(64 << 20));
}

#[tokio::test]
async fn a_table_bomb_counts_as_memory() {
    let fields = "(table $table 1 funcref)";
    let process = "(loop $again (br_if $again (i32.ne
        (table.grow $table (ref.null func) (i32.const 10000)) (i32.const -1)))) unreachable";
    let growing = outcome(Guest {
        process,
        fields,
        ..Guest::default()
    })
    .await;
    assert_eq!(growing.unwrap_err(), PluginError::OutOfMemory(64 << 20));
}

#[tokio::test]
async fn a_plugin_that_takes_no_for_an_answer_lives_on() {
    let process = "(drop (memory.grow (i32.const 60000))) (i32.const 64)";
    let modest = outcome(Guest {
        process,
        ..Guest::default()
    })
    .await;
    assert!(matches!(modest, Ok(Verdict::All)), "{modest:?}");
}

#[tokio::test]
async fn a_deployments_own_memory_limit_holds() {
    let engine = engine();
    let plugin = engine
        .compile(
            Guest {
                process: GROW,
                ..Guest::default()
            }
            .component(),
        )
        .await
        .unwrap();
    let limits = Limits {
        memory_bytes_max: 1 << 20,
        ..engine.config().limits()
    };
    let instance = engine
        .instantiate(&plugin, context(&[]), limits)
        .await
        .unwrap();
    let (_, outcome) = process(&engine, instance, three()).await;
    assert_eq!(outcome.unwrap_err(), PluginError::OutOfMemory(1 << 20));

    let limits = Limits {
        memory_bytes_max: 1 << 30,
        ..limits
    };
    let refused = engine
        .instantiate(&plugin, context(&[]), limits)
        .await
        .unwrap_err();
    assert!(
        matches!(
            refused,
            PluginError::LimitTooHigh {
                limit: "memory_bytes_max",
                ..
            }
        ),
        "{refused}"
    );
    assert_serves(&engine).await;
}

#[tokio::test]
async fn a_trap_says_which() {
    let trapped = outcome(Guest {
        process: "unreachable",
        ..Guest::default()
    })
    .await
    .unwrap_err();
    assert!(
        matches!(&trapped, PluginError::Trapped(words) if words.contains("unreachable")),
        "{trapped}"
    );
    let process = "(i32.div_u (i32.const 1) (i32.load (i32.const 0)))";
    let trapped = outcome(Guest {
        process,
        ..Guest::default()
    })
    .await
    .unwrap_err();
    assert!(
        matches!(&trapped, PluginError::Trapped(words) if words.contains("divide by zero")),
        "{trapped}"
    );
    let process = "(i32.load (i32.const -4))";
    let trapped = outcome(Guest {
        process,
        ..Guest::default()
    })
    .await
    .unwrap_err();
    assert!(
        matches!(&trapped, PluginError::Trapped(words) if words.contains("out of bounds")),
        "{trapped}"
    );
}

#[tokio::test]
async fn a_poisoned_instance_answers_at_once() {
    let engine = engine();
    let wasm = Guest {
        process: "unreachable",
        ..Guest::default()
    }
    .component();
    let instance = start(&engine, wasm, &[]).await.unwrap();
    let (instance, first) = process(&engine, instance, three()).await;
    assert!(matches!(first, Err(PluginError::Trapped(_))));
    let (_, second) = process(&engine, instance, three()).await;
    assert_eq!(second.unwrap_err(), PluginError::Poisoned);
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_the_instance_poisoned() {
    let engine = engine();
    let mut instance = start(
        &engine,
        Guest {
            process: LOOP,
            ..Guest::default()
        }
        .component(),
        &[],
    )
    .await
    .unwrap();
    let work = engine.spawn(async move {
        let records = three();
        let given_up =
            tokio::time::timeout(Duration::from_millis(20), instance.process(&records)).await;
        (given_up.is_err(), instance.process(&records).await)
    });
    let (given_up, second) = work.await.unwrap();
    assert!(given_up);
    assert_eq!(second.unwrap_err(), PluginError::Poisoned);
    assert_serves(&engine).await;
}

#[tokio::test]
async fn an_init_that_refuses_is_heard() {
    let init = "(i32.store8 (i32.const 128) (i32.const 1))
        (i32.store (i32.const 132) (i32.const 200))
        (i32.store (i32.const 136) (i32.const 10))
        i32.const 128";
    let fields = r#"(data (i32.const 200) "not today!")"#;
    let refused = outcome(Guest {
        init,
        fields,
        ..Guest::default()
    })
    .await;
    assert_eq!(
        refused.unwrap_err(),
        PluginError::Refused("not today!".into())
    );
}

#[tokio::test]
async fn a_failure_names_its_row_and_does_not_poison() {
    let process = "(i32.store8 (i32.const 128) (i32.const 1))
        (i32.store8 (i32.const 132) (i32.const 1))
        (i32.store (i32.const 136) (i32.const 2))
        (i32.store (i32.const 140) (i32.const 200))
        (i32.store (i32.const 144) (i32.const 3))
        i32.const 128";
    let fields = r#"(data (i32.const 200) "bad")"#;
    let engine = engine();
    let instance = start(
        &engine,
        Guest {
            process,
            fields,
            ..Guest::default()
        }
        .component(),
        &[],
    )
    .await
    .unwrap();
    for _ in 0..2 {
        let wasm = Guest {
            process,
            fields,
            ..Guest::default()
        }
        .component();
        let again = start(&engine, wasm, &[]).await.unwrap();
        let (again, failed) = plugin_support::process(&engine, again, three()).await;
        assert_eq!(
            failed.unwrap_err(),
            PluginError::Failed {
                row: Some(2),
                message: "bad".into()
            }
        );
        assert!(!again.is_poisoned());
    }
    assert!(!instance.is_poisoned());
}

/// The verdict `keep` with these rows.
fn keep(rows: &[u32]) -> String {
    let store = |(at, row): (usize, &u32)| {
        format!(
            "(i32.store (i32.const {}) (i32.const {row}))",
            1024 + 4 * at
        )
    };
    let stores: String = rows.iter().enumerate().map(store).collect();
    keep_at(1024, rows.len(), &stores)
}

fn keep_at(at: u32, count: usize, before: &str) -> String {
    format!(
        "{before}
        (i32.store8 (i32.const 132) (i32.const 1))
        (i32.store (i32.const 136) (i32.const {at}))
        (i32.store (i32.const 140) (i32.const {count}))
        i32.const 128"
    )
}

#[tokio::test]
async fn rows_are_kept_only_if_they_rise_within_the_batch() {
    let kept = async |rows: &[u32]| {
        outcome(Guest {
            process: &keep(rows),
            ..Guest::default()
        })
        .await
    };
    for rows in [&[][..], &[0], &[2], &[0, 2], &[0, 1, 2]] {
        let verdict = kept(rows).await;
        assert!(
            matches!(&verdict, Ok(Verdict::Keep(kept)) if kept == rows),
            "{rows:?}: {verdict:?}"
        );
    }
    for (rows, words) in [
        (&[3][..], "row 3 of a batch of 3"),
        (&[0, 1, 2, 3], "row 3 of a batch of 3"),
        (&[u32::MAX], "of a batch of 3"),
        (&[1, 0], "do not rise"),
        (&[1, 1], "do not rise"),
        (&[0, 2, 1], "do not rise"),
    ] {
        let error = kept(rows).await.unwrap_err();
        assert!(
            matches!(&error, PluginError::InvalidVerdict(found) if found.contains(words)),
            "{rows:?}: {error}"
        );
    }
}

#[tokio::test]
async fn a_list_beyond_the_memory_is_nonsense() {
    for (at, count) in [(1024, 1 << 30), (0xffff_fff0, 16), (1025, 1)] {
        let process = keep_at(at, count, "");
        let error = outcome(Guest {
            process: &process,
            ..Guest::default()
        })
        .await
        .unwrap_err();
        assert!(
            matches!(error, PluginError::InvalidVerdict(_)),
            "{at} {count}: {error}"
        );
    }
}

#[tokio::test]
async fn a_verdict_that_does_not_exist_is_nonsense() {
    let process = "(i32.store8 (i32.const 132) (i32.const 9)) i32.const 128";
    let error = outcome(Guest {
        process,
        ..Guest::default()
    })
    .await
    .unwrap_err();
    assert!(matches!(error, PluginError::InvalidVerdict(_)), "{error}");
}

/// New records for a port, each column as where it lies and how many elements it has.
#[derive(Clone, Copy, Default)]
struct Emit {
    port: u32,
    timestamps: (u32, u32),
    key_ends: (u32, u32),
    keys: (u32, u32),
    key_nulls: (u32, u32),
    value_ends: (u32, u32),
    values: (u32, u32),
    value_nulls: (u32, u32),
    header_ends: (u32, u32),
    headers: (u32, u32),
    /// How many times the same output.
    times: u32,
}

impl Emit {
    /// Two records with the values `a` and `bc`.
    fn two() -> Self {
        Self {
            timestamps: (2000, 2),
            value_ends: (2100, 2),
            values: (2200, 3),
            times: 1,
            ..Self::default()
        }
    }

    fn process(&self) -> String {
        let columns = [
            self.timestamps,
            self.key_ends,
            self.keys,
            self.key_nulls,
            self.value_ends,
            self.values,
            self.value_nulls,
            self.header_ends,
            self.headers,
        ];
        let mut text =
            String::from("(local $at i32) (local $left i32) (local.set $at (i32.const 4096))\n");
        text += &format!(
            "(local.set $left (i32.const {}))\n(loop $next\n",
            self.times
        );
        let mut store = |offset: usize, value: u32| {
            text += &format!("(i32.store offset={offset} (local.get $at) (i32.const {value}))\n");
        };
        store(0, self.port);
        store(4, 1);
        for (at, (begin, count)) in columns.into_iter().enumerate() {
            store(8 + 8 * at, begin);
            store(12 + 8 * at, count);
        }
        text += &format!(
            "(local.set $at (i32.add (local.get $at) (i32.const 80)))
            (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
            (i32.store8 (i32.const 132) (i32.const 2))
            (i32.store (i32.const 136) (i32.const 4096))
            (i32.store (i32.const 140) (i32.const {}))
            i32.const 128",
            self.times
        );
        text
    }

    async fn outcome(&self) -> Result<Verdict, PluginError> {
        let fields = r#"
            (data (i32.const 2000) "\01\00\00\00\00\00\00\00\02\00\00\00\00\00\00\00") ;; timestamps 1, 2
            (data (i32.const 2100) "\01\00\00\00\03\00\00\00") ;; ends 1, 3
            (data (i32.const 2110) "\03\00\00\00\01\00\00\00") ;; ends that fall
            (data (i32.const 2200) "abc")
            (data (i32.const 2300) "\01\00\01\00n\01\00\00\00v\00\00") ;; one header, then none
            (data (i32.const 2312) "\0a\00\00\00\0c\00\00\00") ;; their ends
            (data (i32.const 2330) "\01\00\00\00\00\00\00\00\00\00") ;; a count and an empty name cut short
            (data (i32.const 2340) "\02") ;; the second is null
            (data (i32.const 2344) "\01\00\00\00\01\00\00\00") ;; ends 1, 1
            (data (i32.const 2352) "\ff")"#;
        outcome(Guest {
            process: &self.process(),
            fields,
            ..Guest::default()
        })
        .await
    }
}

#[tokio::test]
async fn new_records_arrive_as_they_were_made() {
    let emit = Emit {
        key_ends: (2344, 2),
        keys: (2200, 1),
        key_nulls: (2340, 1),
        header_ends: (2312, 2),
        headers: (2300, 12),
        ..Emit::two()
    };
    let Verdict::Emit(outputs) = emit.outcome().await.unwrap() else {
        panic!("not emit")
    };
    assert_eq!((outputs.len(), outputs[0].port), (1, 0));
    let records: Vec<_> = outputs[0].records.iter().collect();
    assert_eq!(
        records
            .iter()
            .map(|record| record.timestamp)
            .collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(
        records
            .iter()
            .map(|record| record.value)
            .collect::<Vec<_>>(),
        [Some(&b"a"[..]), Some(b"bc")]
    );
    assert_eq!(
        records.iter().map(|record| record.key).collect::<Vec<_>>(),
        [Some(&b"a"[..]), None]
    );
    assert_eq!(
        records[0].headers.collect::<Vec<_>>(),
        [("n", Some(&b"v"[..]))]
    );
    assert_eq!(records[1].headers.count(), 0);
}

#[tokio::test]
async fn columns_that_lie_are_nonsense() {
    let two = Emit::two();
    for (what, lie) in [
        ("a port that is not connected", Emit { port: 1, ..two }),
        (
            "a port that can't be",
            Emit {
                port: u32::MAX,
                ..two
            },
        ),
        (
            "more timestamps than values",
            Emit {
                timestamps: (2000, 3),
                ..two
            },
        ),
        (
            "fewer timestamps than values",
            Emit {
                timestamps: (2000, 1),
                ..two
            },
        ),
        (
            "ends that fall",
            Emit {
                value_ends: (2112, 2),
                ..two
            },
        ),
        (
            "fewer bytes than the ends say",
            Emit {
                values: (2200, 2),
                ..two
            },
        ),
        (
            "more bytes than the ends say",
            Emit {
                values: (2200, 4),
                ..two
            },
        ),
        (
            "values without ends",
            Emit {
                value_ends: (0, 0),
                ..two
            },
        ),
        (
            "keys without ends",
            Emit {
                keys: (2200, 1),
                ..two
            },
        ),
        (
            "fewer key ends than records",
            Emit {
                key_ends: (2100, 1),
                keys: (2200, 1),
                ..two
            },
        ),
        (
            "a null with bytes",
            Emit {
                value_nulls: (2340, 1),
                ..two
            },
        ),
        (
            "too many null bits",
            Emit {
                value_nulls: (2340, 2),
                ..two
            },
        ),
        (
            "nulls of rows that are not there",
            Emit {
                value_nulls: (2352, 1),
                ..two
            },
        ),
        (
            "headers cut short",
            Emit {
                header_ends: (2344, 2),
                headers: (2330, 1),
                ..two
            },
        ),
        (
            "headers that are noise",
            Emit {
                header_ends: (2100, 2),
                headers: (2200, 3),
                ..two
            },
        ),
        (
            "headers without ends",
            Emit {
                headers: (2300, 12),
                ..two
            },
        ),
    ] {
        let outcome = lie.outcome().await;
        assert!(
            matches!(outcome, Err(PluginError::InvalidVerdict(_))),
            "{what}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn an_output_bomb_is_too_large() {
    let limit = config().output_bytes_max;
    let large = Emit {
        values: (0, 100_000),
        times: 100,
        ..Emit::two()
    };
    // Two ends for so many bytes don't fit; it is refused for its size before that is looked at.
    let error = large.outcome().await.unwrap_err();
    assert!(
        matches!(error, PluginError::OutputTooLarge { limit: found, .. } if found == limit),
        "{error}"
    );
}

#[tokio::test]
async fn a_bomb_of_one_list_many_times_over_is_too_large() {
    // 700 outputs of 56 KB of memory, and each of them lists all of it twice.
    let many = Emit {
        values: (0, 120_000),
        keys: (0, 120_000),
        times: 700,
        ..Emit::two()
    };
    let error = many.outcome().await.unwrap_err();
    assert!(
        matches!(error, PluginError::OutputTooLarge { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn outputs_of_nothing_are_not_free() {
    let engine = engine();
    let emit = Emit {
        times: 700,
        ..Emit::default()
    };
    let wasm = Guest {
        process: &emit.process(),
        ..Guest::default()
    }
    .component();
    let plugin = engine.compile(wasm).await.unwrap();
    let limits = Limits {
        output_bytes_max: 20_000,
        ..engine.config().limits()
    };
    let instance = engine
        .instantiate(&plugin, context(&[]), limits)
        .await
        .unwrap();
    let (_, outcome) = process(&engine, instance, three()).await;
    assert!(
        matches!(
            outcome,
            Err(PluginError::OutputTooLarge { limit: 20_000, .. })
        ),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn bytes_that_are_no_component_are_refused_with_a_hint() {
    let engine = engine();
    for (wasm, hint) in [
        (Bytes::new(), "it is empty"),
        (
            Bytes::from_static(b"#!/bin/sh\nrm -rf /"),
            "not WebAssembly",
        ),
        (
            wat::parse_str("(module)").unwrap().into(),
            "--target wasm32-wasip2",
        ),
        (Guest::default().component().slice(..1000), "not a plugin"),
    ] {
        let error = engine.compile(wasm).await.unwrap_err();
        assert!(matches!(error, PluginError::NotAComponent(_)), "{error}");
        assert!(error.to_string().contains(hint), "{error}");
    }
    assert_serves(&engine).await;
}

#[tokio::test]
async fn a_component_with_any_byte_changed_is_compiled_or_refused_and_harms_nobody() {
    let engine = engine();
    let good = Guest::default().component();
    for at in (0..good.len()).step_by(97) {
        let mut wasm = good.to_vec();
        wasm[at] ^= 0x15;
        if let Ok(instance) = start(&engine, wasm.into(), &[]).await {
            let _ = process(&engine, instance, three()).await;
        }
    }
    assert_serves(&engine).await;
}

#[tokio::test]
async fn a_hundred_megabytes_of_junk_are_too_large() {
    let engine = engine();
    let mut random = fastrand::Rng::with_seed(7);
    let mut junk = vec![0; 100 << 20];
    for chunk in junk.chunks_mut(4096) {
        chunk[0] = random.u8(..);
    }
    let error = engine.compile(junk.into()).await.unwrap_err();
    assert_eq!(
        error,
        PluginError::TooLarge {
            bytes: 100 << 20,
            limit: 16 << 20
        }
    );

    let engine = engine_with(Config {
        plugin_bytes_max: 200 << 20,
        ..config()
    });
    let mut junk = b"\0asm\x0d\0\x01\0".to_vec();
    junk.resize(100 << 20, 0xff);
    let error = engine.compile(junk.into()).await.unwrap_err();
    assert!(matches!(error, PluginError::NotAComponent(_)), "{error}");
    assert_serves(&engine).await;
}

#[tokio::test]
async fn a_component_takes_no_more_of_the_pool_than_its_place_has() {
    let engine = engine();
    let module = "(component (core module $m (memory 1))
        (core instance (instantiate $m)) (core instance (instantiate $m)))";
    let error = engine
        .compile(wat::parse_str(module).unwrap().into())
        .await
        .unwrap_err();
    assert!(matches!(error, PluginError::NotAComponent(_)), "{error}");
    assert!(error.to_string().contains("memories"), "{error}");
    assert_serves(&engine).await;
}

#[tokio::test]
async fn filters_leave_places_for_deployments_and_what_is_reserved_is_there() {
    let engine = engine_with(Config {
        instances_max: 8,
        ..config()
    });
    let plugin = engine.compile(Guest::default().component()).await.unwrap();
    let limits = engine.config().limits();
    let mut filters = Vec::new();
    let refused = loop {
        match engine.instantiate(&plugin, context(&[]), limits).await {
            Ok(filter) => filters.push(filter),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, PluginError::NoCapacity { limit: 6, all: 8 });
    assert_eq!(filters.len(), 6);
    let places = engine.reserve(2).unwrap();
    assert_eq!(
        engine.reserve(1).unwrap_err(),
        PluginError::TooFewPlaces {
            asked: 1,
            free: 0,
            limit: 8
        }
    );
    for _ in 0..3 {
        for place in &places {
            let context = context(&[]);
            let made = engine.instantiate_at(place, &plugin, context, limits).await;
            assert!(made.is_ok(), "{made:?}");
        }
    }
    drop((places, filters));
    assert_eq!(wait_for_no_instance(&engine).await, 0);
}

#[tokio::test]
async fn many_loops_of_one_deployment_wait_for_each_other_and_not_others_for_them() {
    let engine = engine_with(Config {
        threads: 1,
        ..config()
    });
    let wasm = Guest {
        process: LOOP,
        ..Guest::default()
    }
    .component();
    let plugin = engine.compile(wasm).await.unwrap();
    let mut instances = Vec::new();
    for name in ["many"; 6].into_iter().chain(["one"]) {
        let context = Context {
            deployment: name.into(),
            ..context(&[])
        };
        let limits = engine.config().limits();
        let made = engine.instantiate(&plugin, context, limits).await;
        instances.push((name, made.unwrap()));
    }
    let (finished, mut order) = tokio::sync::mpsc::unbounded_channel();
    for (name, mut instance) in instances {
        let finished = finished.clone();
        engine.spawn(async move {
            let outcome = instance.process(&three()).await;
            finished.send((name, outcome.is_err())).unwrap();
        });
    }
    // It was the last to begin, and shares the thread with one of the six at a time.
    let mut before = 0;
    while let Some(("many", true)) = order.recv().await {
        before += 1;
    }
    assert!(before <= 3, "{before} of six were through before it");
}

#[tokio::test]
async fn outputs_for_one_port_are_one_output_and_too_many_are_nonsense() {
    let thrice = Emit {
        times: 3,
        ..Emit::two()
    };
    let Verdict::Emit(outputs) = thrice.outcome().await.unwrap() else {
        panic!("not emit")
    };
    let values = |row: usize| outputs[0].records.record(row).unwrap().value.unwrap();
    assert_eq!((outputs.len(), outputs[0].records.len()), (1, 6));
    assert_eq!((values(4), values(5)), (&b"a"[..], &b"bc"[..]));
    let many = Emit {
        times: 1025,
        ..Emit::two()
    };
    let error = many.outcome().await.unwrap_err();
    assert!(
        matches!(&error, PluginError::InvalidVerdict(words) if words.contains("1025 outputs, the limit is 1024")),
        "{error}"
    );
}

#[tokio::test]
async fn a_trap_is_not_for_want_of_memory_that_an_earlier_call_was_refused() {
    let process = "(if (global.get $called) (then unreachable))
        (global.set $called (i32.const 1))
        (drop (memory.grow (i32.const 60000)))
        (i32.const 64)";
    let fields = "(global $called (mut i32) (i32.const 0))";
    let guest = Guest {
        process,
        fields,
        ..Guest::default()
    };
    let engine = engine();
    let instance = start(&engine, guest.component(), &[]).await.unwrap();
    let (instance, first) = plugin_support::process(&engine, instance, three()).await;
    assert!(matches!(first, Ok(Verdict::All)), "{first:?}");
    let (_, second) = plugin_support::process(&engine, instance, three()).await;
    assert!(matches!(second, Err(PluginError::Trapped(_))), "{second:?}");
}

#[tokio::test]
async fn what_a_plugin_says_can_not_write_on_a_terminal() {
    let init = "(i32.store8 (i32.const 128) (i32.const 1))
        (i32.store (i32.const 132) (i32.const 200))
        (i32.store (i32.const 136) (i32.const 9))
        i32.const 128";
    let fields = r#"(data (i32.const 200) "\1b[2J\nfine")"#;
    let refused = outcome(Guest {
        init,
        fields,
        ..Guest::default()
    })
    .await;
    let words = r"\u{1b}[2J\nfine".to_owned();
    assert_eq!(refused.unwrap_err(), PluginError::Refused(words));
}

/// A component of a world of its own.
fn of_another_world(wit: &str, module: &str) -> Bytes {
    let mut resolve = wit_parser::Resolve::default();
    resolve.push_str("test.wit", wit).unwrap();
    component(module, &resolve, "other")
}

#[tokio::test]
async fn a_component_of_another_world_is_told_what_is_missing() {
    let engine = engine();
    for (wit, module, words) in [
        ("package test:test; world other {}", "(module)", "it exports nothing"),
        (
            "package test:test; world other { export run: func(); }",
            r#"(module (func (export "run")))"#,
            "it exports `run`, a plugin exports `eddy:plugin/processor@0.1.0`",
        ),
        (
            "package test:test; interface gate { open: func(); } world other { import gate; }",
            r#"(module (import "test:test/gate" "open" (func)))"#,
            "it imports `test:test/gate`, which this broker doesn't offer",
        ),
        (
            "package eddy:plugin@0.1.0;
            interface processor { init: func(); process: func(); } world other { export processor; }",
            r#"(module (func (export "eddy:plugin/processor@0.1.0#init"))
                (func (export "eddy:plugin/processor@0.1.0#process")))"#,
            "`init` of `eddy:plugin/processor@0.1.0` has other types",
        ),
        (
            "package eddy:plugin@0.1.0; interface log { write: func(line: u32); }
            interface processor { init: func(); } world other { import log; export processor; }",
            r#"(module (import "eddy:plugin/log@0.1.0" "write" (func (param i32)))
                (func (export "eddy:plugin/processor@0.1.0#init")))"#,
            "eddy:plugin/log",
        ),
    ] {
        let error = engine.compile(of_another_world(wit, module)).await.unwrap_err();
        assert!(matches!(error, PluginError::WrongWorld(_)), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_serves(&engine).await;
}

#[tokio::test]
async fn instances_beyond_the_limit_are_refused_and_a_place_is_free_again_after_a_drop() {
    let engine = engine_with(Config {
        instances_max: 3,
        ..config()
    });
    let plugin = engine.compile(Guest::default().component()).await.unwrap();
    let make = || engine.instantiate(&plugin, context(&[]), engine.config().limits());
    let mut instances = vec![
        make().await.unwrap(),
        make().await.unwrap(),
        make().await.unwrap(),
    ];
    assert_eq!(
        make().await.unwrap_err(),
        PluginError::NoCapacity { limit: 3, all: 3 }
    );
    for _ in 0..20 {
        instances.pop();
        instances.push(make().await.unwrap());
    }
    drop(instances);
    assert_serves(&engine).await;
}

#[tokio::test]
async fn loops_on_every_thread_leave_others_their_latency() {
    // Long enough for the measurement on the slowest machine.
    let loop_time = Duration::from_secs(30);
    let engine = engine_with(Config {
        batch_time_max: loop_time,
        ..config()
    });
    let looper = Guest {
        process: LOOP,
        ..Guest::default()
    }
    .component();
    let limits = engine.config().limits();
    // Those of one deployment would wait for each other.
    let of = |deployment: String| Context {
        deployment,
        ..context(&[])
    };
    let good = engine.compile(Guest::default().component()).await.unwrap();
    let good = engine.instantiate(&good, of("good".to_owned()), limits);
    let mut good = good.await.unwrap();
    let looper = engine.compile(looper).await.unwrap();
    let mut loopers = Vec::new();
    for number in 0..4 {
        let instance = engine.instantiate(&looper, of(format!("looper {number}")), limits);
        let mut instance = instance.await.unwrap();
        loopers.push(engine.spawn(async move { instance.process(&three()).await }));
    }
    let work = engine.spawn(async move {
        let mut latencies = Vec::new();
        for _ in 0..100 {
            let began = Instant::now();
            let verdict = good.process(&three()).await;
            assert!(matches!(verdict, Ok(Verdict::All)), "{verdict:?}");
            latencies.push(began.elapsed());
            tokio::task::yield_now().await;
        }
        latencies.sort();
        latencies
    });
    let latencies = tokio::time::timeout(Duration::from_secs(60), work)
        .await
        .unwrap()
        .unwrap();
    assert!(
        loopers.iter().all(|looper| !looper.is_finished()),
        "the loops ended before the measurement"
    );
    // A turn comes after some slices of a millisecond, not after a loop's whole time.
    assert!(latencies[50] < loop_time / 60, "median {:?}", latencies[50]);
    loopers.iter().for_each(|looper| looper.abort());
    assert_serves(&engine).await;
}

#[tokio::test]
async fn a_plugin_that_sleeps_is_woken_with_an_error() {
    let outcome = after_sleeping_for(3_600_000_000_000).await;
    let error = outcome.unwrap_err();
    assert!(
        matches!(&error, PluginError::Trapped(words) if words.contains("waits")),
        "{error}"
    );
}

#[tokio::test]
async fn a_moment_that_is_there_already_is_not_waited_for() {
    let outcome = after_sleeping_for(0).await;
    assert!(matches!(outcome, Ok(Verdict::All)), "{outcome:?}");
}

/// What becomes of a batch after a sleep of so many nanoseconds.
async fn after_sleeping_for(nanoseconds: u64) -> Result<Verdict, PluginError> {
    let wit = "package test:sleepy;
        world other {
            import wasi:clocks/monotonic-clock@0.2.0;
            import wasi:io/poll@0.2.0;
            import eddy:plugin/log@0.1.0;
            export eddy:plugin/processor@0.1.0;
        }
        package wasi:io@0.2.0 { interface poll { resource pollable { block: func(); } } }
        package wasi:clocks@0.2.0 {
            interface monotonic-clock {
                use wasi:io/poll@0.2.0.{pollable};
                subscribe-duration: func(when: u64) -> pollable;
            }
        }";
    let mut resolve = contract();
    resolve.push_str("sleepy.wit", wit).unwrap();
    let module = &r#"(module
        (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $subscribe (param i64) (result i32)))
        (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
        (func (export "eddy:plugin/processor@0.1.0#init")
            (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 0))
        (func (export "eddy:plugin/processor@0.1.0#process") (param i32) (result i32)
            (call $block (call $subscribe (i64.const NANOSECONDS)))
            (i32.const 64)))"#
        .replace("NANOSECONDS", &nanoseconds.to_string());
    let engine = engine();
    let instance = start(&engine, component(module, &resolve, "other"), &[])
        .await
        .unwrap();
    let (_, outcome) = process(&engine, instance, three()).await;
    assert_serves(&engine).await;
    outcome
}
