//! What goes to which output. Records that are sent on as they came stay row numbers, for which the
//! broker has the bytes already; an output becomes columns with the first record that is new.

use crate::bindings::eddy::plugin::types as raw;
use crate::{Batch, Emitted, NewRecord, Output, Port, Record, Verdict};

/// Collects what a batch turns into.
pub struct Outputs<'a> {
    batch: Batch<'a>,
    main_output: Option<u32>,
    ports: Vec<Collected>,
}

struct Collected {
    port: u32,
    records: Emitted,
}

impl<'a> Outputs<'a> {
    pub(crate) fn new(batch: Batch<'a>, main_output: Option<u32>) -> Self {
        Self {
            batch,
            main_output,
            ports: Vec::new(),
        }
    }

    /// Sends a record of the batch on as it came, whatever was changed in this view of it. To send a
    /// changed one, [`emit`](Self::emit) what [`Record::to_new`] gives.
    pub fn forward(&mut self, port: Port, record: &Record<'_>) {
        let batch = self.batch;
        let Some(records) = self.records(port) else {
            return;
        };
        if let Emitted::Rows(rows) = records
            && rows.last().is_none_or(|last| *last < record.row)
        {
            rows.push(record.row);
            return;
        }
        push(columns(records, &batch), &record.to_new());
    }

    /// Sends a new record.
    pub fn emit(&mut self, port: Port, record: &NewRecord<'_>) {
        let batch = self.batch;
        if let Some(records) = self.records(port) {
            push(columns(records, &batch), record);
        }
    }

    /// What was collected for this output; nothing if it leads nowhere.
    fn records(&mut self, port: Port) -> Option<&mut Emitted> {
        let port = port.place(self.main_output)?;
        let at = match self
            .ports
            .iter()
            .position(|collected| collected.port == port)
        {
            Some(at) => at,
            None => {
                let rows = Vec::with_capacity(self.batch.len());
                self.ports.push(Collected {
                    port,
                    records: Emitted::Rows(rows),
                });
                self.ports.len() - 1
            }
        };
        Some(&mut self.ports[at].records)
    }

    /// Everything collected, in the shortest form there is.
    pub fn into_verdict(mut self) -> Verdict {
        if let [
            Collected {
                port,
                records: Emitted::Rows(rows),
            },
        ] = &mut self.ports[..]
            && Some(*port) == self.main_output
        {
            return match rows.len() == self.batch.len() {
                true => Verdict::All,
                false => Verdict::Keep(std::mem::take(rows)),
            };
        }
        if self.ports.is_empty() {
            // Valid on a subscription too, where a plugin may drop records but make none.
            return Verdict::Keep(Vec::new());
        }
        let output = |Collected { port, records }| Output { port, records };
        Verdict::Emit(self.ports.into_iter().map(output).collect())
    }
}

/// The columns of an output, with the rows sent so far copied into them if need be.
fn columns<'o>(records: &'o mut Emitted, batch: &Batch<'_>) -> &'o mut raw::Columns {
    if let Emitted::Rows(rows) = records {
        let mut columns = empty();
        for record in rows.iter().filter_map(|row| batch.record(*row)) {
            push(&mut columns, &record.to_new());
        }
        *records = Emitted::Columns(columns);
    }
    match records {
        Emitted::Columns(columns) => columns,
        Emitted::Rows(_) => unreachable!("rows have just become columns"),
    }
}

pub(crate) fn empty() -> raw::Columns {
    raw::Columns {
        timestamps: Vec::new(),
        key_ends: Vec::new(),
        keys: Vec::new(),
        key_nulls: Vec::new(),
        value_ends: Vec::new(),
        values: Vec::new(),
        value_nulls: Vec::new(),
        header_ends: Vec::new(),
        headers: Vec::new(),
    }
}

/// Appends a record. Keys, headers and nulls have a column from the first record that has one.
pub(crate) fn push(columns: &mut raw::Columns, record: &NewRecord<'_>) {
    let row = columns.timestamps.len();
    columns.timestamps.push(record.timestamp);
    if record.key.is_some() && columns.key_ends.is_empty() {
        columns.key_ends.resize(row, 0);
        (0..row).for_each(|row| set_null(&mut columns.key_nulls, row));
    }
    if record.key.is_some() || !columns.key_ends.is_empty() {
        append(
            &mut columns.key_ends,
            &mut columns.keys,
            &mut columns.key_nulls,
            record.key,
        );
    }
    append(
        &mut columns.value_ends,
        &mut columns.values,
        &mut columns.value_nulls,
        record.value,
    );
    if !record.headers.is_empty() && columns.header_ends.is_empty() {
        columns.header_ends.resize(row, 0);
    }
    if !record.headers.is_empty() || !columns.header_ends.is_empty() {
        columns.headers.extend_from_slice(record.headers.blob());
        columns.header_ends.push(end_of(&columns.headers));
    }
}

fn append(ends: &mut Vec<u32>, bytes: &mut Vec<u8>, nulls: &mut Vec<u8>, row: Option<&[u8]>) {
    let at = ends.len();
    match row {
        Some(row) => bytes.extend_from_slice(row),
        None => set_null(nulls, at),
    }
    if !nulls.is_empty() {
        nulls.resize((at + 1).div_ceil(8), 0);
    }
    ends.push(end_of(bytes));
}

fn set_null(nulls: &mut Vec<u8>, row: usize) {
    nulls.resize((row + 1).div_ceil(8), 0);
    nulls[row / 8] |= 1 << (row % 8);
}

fn end_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("an instance has less than 4 GiB of memory")
}
